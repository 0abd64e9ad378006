"""How long a vendor asked us to wait."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.providers.retry_after import LONGEST, asked_wait, retry_after

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", None),
        ("1", 1),
        (" 120 ", 120),
        ("86400", 86400),
        ("86401", 86400),
        ("99999999999", 86400),
        ("Sun, 01 Nov 2026 12:00:30 GMT", 30),
        ("Sunday, 01-Nov-26 12:00:30 GMT", 30),
        ("Sun Nov  1 12:00:30 2026", 30),
        ("Fri, 01 Jan 2100 00:00:00 GMT", 86400),
        ("Sun, 01 Nov 2026 11:59:59 GMT", None),
        (None, None),
        ("", None),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("abc", None),
        ("5 seconds", None),
        ("٣", None),
        ("9" * 5000, None),
        ("Sun, 99 Nov 2026 12:00:30 GMT", None),
        ("Sun, 01 Nov 99999 12:00:30 GMT", None),
    ],
)
def test_both_forms_and_broken_ones(value: str | None, seconds: int | None) -> None:
    assert retry_after(value, now=NOW) == (None if seconds is None else timedelta(seconds=seconds))


@given(st.text() | st.from_regex(r"\A[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d+:\d+:\d+ [-+A-Z0-9]+\Z"))
def test_nothing_breaks_it(value: str) -> None:
    wait = retry_after(value, now=NOW)
    assert wait is None or timedelta(0) < wait <= LONGEST


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"X-RateLimit-Reset": "1793534430"}, 30),
        ({"X-RateLimit-Reset": "1793534430", "Retry-After": "7"}, 7),
        ({"X-RateLimit-Reset": "1793534430000"}, None),
        ({"X-RateLimit-Reset": "9" * 20}, None),
        ({"X-RateLimit-Reset": "12"}, None),
        ({"X-RateLimit-Reset": "x"}, None),
        ({}, None),
    ],
)
def test_the_rate_limit_s_reset_speaks_where_retry_after_is_silent(
    headers: dict[str, str], seconds: int | None
) -> None:
    assert asked_wait(headers, now=NOW) == (None if seconds is None else timedelta(seconds=seconds))
