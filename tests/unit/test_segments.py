"""Segments of an SMS, with smsutil as the oracle."""

from __future__ import annotations

import pytest
import smsutil
from hypothesis import example, given
from hypothesis import strategies as st

from streams.domain.segments import _BASIC, _EXTENSION, segments

_GSM = st.text(st.sampled_from(_BASIC + _EXTENSION), max_size=800)
_EXTENDED = st.text(st.sampled_from(_EXTENSION + "a"), min_size=140, max_size=330)
_UNICODE = st.text(st.sampled_from("aé漢😀€\u200d🏽"), min_size=30, max_size=300)
#: Without lone surrogates, which no record of ours can hold, and the bare escape, which the oracle takes for a letter.
_ANY = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x1b"), max_size=300)


@given(st.one_of(_GSM, _EXTENDED, _UNICODE, _ANY))
@example("")
def test_is_what_others_count(text: str) -> None:
    assert segments(text) == max(len(smsutil.split(text).parts), 1)


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("", 1),
        ("a" * 160, 1),
        ("a" * 161, 2),
        ("a" * 306, 2),
        ("a" * 307, 3),
        ("€" * 80, 1),
        ("€" * 81, 2),
        ("a" * 152 + "€" + "a" * 10, 2),
        ("a" * 152 + "€" + "a" * 152, 3),  # the escape is not parted from its character
        ("ж" * 70, 1),
        ("ж" * 71, 2),
        ("ж" * 134, 2),
        ("ж" * 135, 3),
        ("😀" * 35, 1),
        ("😀" * 36, 2),
        ("😀" * 67, 3),  # 33 pairs fit into 67 units
        ("`" + "a" * 70, 2),  # one character outside the alphabet
    ],
)
def test_the_bounds(text: str, count: int) -> None:
    assert segments(text) == count
