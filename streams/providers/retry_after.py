"""How long a vendor asked us to wait, read from its headers without trust."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

#: What asks for more is a mistake, or an outage that nobody should sleep through.
LONGEST = timedelta(hours=24)

_SECONDS = re.compile(r"[0-9]{1,20}")


def retry_after(value: str | None, *, now: datetime) -> timedelta | None:
    """`Retry-After` in both forms of RFC 9110 section 10.2.3, seconds or a date, capped at 24 hours.

    None where it says nothing that can be used: absent, broken, negative or past. Our own backoff decides then.
    """
    text = (value or "").strip()
    if _SECONDS.fullmatch(text):
        wait = timedelta(seconds=min(int(text), int(LONGEST.total_seconds())))
    else:
        until = _http_date(text)
        if until is None:
            return None
        wait = min(until - now, LONGEST)
    return wait if wait > timedelta(0) else None


def _http_date(text: str) -> datetime | None:
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # The old asctime form names no zone; RFC 9110 says it is UTC.
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def asked_wait(headers: Mapping[str, str], *, now: datetime) -> timedelta | None:
    """`Retry-After`, else `X-RateLimit-Reset` (Unix seconds), which SendGrid sends with a 429 in its place.

    https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/rate-limits
    """
    wait = retry_after(headers.get("Retry-After"), now=now)
    reset = headers.get("X-RateLimit-Reset", "").strip()
    if wait is None and _SECONDS.fullmatch(reset):
        # A reset further away than a day is no Unix time of today: milliseconds, or a broken clock.
        wait = timedelta(seconds=min(int(reset) - now.timestamp(), 10**9))
        if not timedelta(0) < wait <= LONGEST:
            wait = None
    return wait
