"""Cursors: what was given out comes back as it was, and nothing else is taken."""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.errors import Problem
from api.paging import Cursor, cursor_of, key_cursor, key_cursor_of, page

times = st.datetimes(min_value=datetime(1970, 1, 1), max_value=datetime(9998, 1, 1), timezones=st.just(UTC))


@dataclass(frozen=True)
class Row:
    created_at: datetime
    id: UUID


@given(times, st.uuids())
def test_a_place_comes_back_to_the_microsecond(created_at: datetime, row_id: UUID) -> None:
    cursor = Cursor(created_at, row_id)
    assert cursor_of(cursor.text()) == cursor


@given(st.text(max_size=80))
def test_anything_else_is_named(text: str) -> None:
    try:
        found = cursor_of(text)
    except Problem as problem:
        assert problem.errors[0].field == "cursor"
    else:
        assert found is not None and found.text() == text


@pytest.mark.parametrize("raw", [b"", b"\xff" * 24, b"\x00" * 23, b"\x00" * 25])
def test_bytes_that_are_no_place(raw: bytes) -> None:
    with pytest.raises(Problem):
        cursor_of(base64.urlsafe_b64encode(raw).decode())


def test_no_cursor_is_the_first_page() -> None:
    assert cursor_of(None) is None and key_cursor_of(None, 2) is None


def test_places_in_sorted_lists() -> None:
    assert key_cursor_of(key_cursor("a.b", "de-AT"), 2) == ("a.b", "de-AT")
    for text in (key_cursor("a"), key_cursor("a", "b", "c"), key_cursor("a", "\x00"), "é", "!", "/w=="):
        with pytest.raises(Problem):
            key_cursor_of(text, 2)


def test_the_last_page_has_no_next() -> None:
    rows = [Row(datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=n), uuid4()) for n in range(4)]
    shown, following = page(rows, 3)
    assert (shown, following) == (rows[:3], Cursor(rows[2].created_at, rows[2].id).text())
    assert page(rows, 4) == (rows, None)
    assert page([], 4) == ([], None)
