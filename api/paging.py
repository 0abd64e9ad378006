"""Cursors and bounds of lists."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Protocol, TypeVar
from uuid import UUID

from fastapi import Query

from api.errors import FieldError, invalid

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_CURSOR_BYTES = 24
#: The last moment of year 9998, in microseconds: a cursor beyond it is none of ours.
_LAST_TICK = (datetime(9999, 1, 1, tzinfo=UTC) - _EPOCH) // _TICK

Limit = Annotated[int, Query(ge=1, le=200, description="How many items at most.", examples=[50])]
CursorText = Annotated[
    str | None,
    Query(max_length=600, description="`next_cursor` of the page before.", examples=[None]),
]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where a list that runs from new to old goes on."""

    created_at: datetime
    id: UUID

    def text(self) -> str:
        """Its opaque form."""
        ticks = (self.created_at - _EPOCH) // _TICK
        return base64.urlsafe_b64encode(ticks.to_bytes(8, "big") + self.id.bytes).decode()


def cursor_of(text: str | None) -> Cursor | None:
    """The cursor that a client sent back.

    Raises:
        Problem: 422 for what is none of ours.
    """
    if text is None:
        return None
    raw = _decoded(text)
    ticks = int.from_bytes(raw[:8], "big")
    if len(raw) != _CURSOR_BYTES or ticks >= _LAST_TICK:
        raise bad_cursor()
    return Cursor(_EPOCH + ticks * _TICK, UUID(bytes=raw[8:]))


def key_cursor(*parts: str) -> str:
    """The opaque form of a place in a list that is sorted by text."""
    return base64.urlsafe_b64encode("\n".join(parts).encode()).decode()


def key_cursor_of(text: str | None, parts: int) -> tuple[str, ...] | None:
    """The place that `key_cursor` made.

    Raises:
        Problem: 422 for what is none of ours.
    """
    if text is None:
        return None
    try:
        found = tuple(_decoded(text).decode().split("\n"))
    except UnicodeDecodeError:
        raise bad_cursor() from None
    if len(found) != parts or "\x00" in text or any("\x00" in part for part in found):
        raise bad_cursor()
    return found


def _decoded(text: str) -> bytes:
    try:
        raw = base64.b64decode(text.encode("ascii"), altchars=b"-_", validate=True)
    except (UnicodeEncodeError, binascii.Error, ValueError):
        raise bad_cursor() from None
    if base64.urlsafe_b64encode(raw).decode() != text:
        raise bad_cursor()
    return raw


def bad_cursor() -> Exception:
    """The error for a cursor that this list never gave out."""
    return invalid([FieldError("cursor", "is none that this list has given out")])


class Dated(Protocol):
    """What a list from new to old is made of."""

    @property
    def created_at(self) -> datetime: ...

    @property
    def id(self) -> UUID: ...


D = TypeVar("D", bound=Dated)


def page(rows: Sequence[D], limit: int) -> tuple[Sequence[D], str | None]:
    """Cuts `limit + 1` rows to a page and the cursor of the next one, None at the end."""
    if len(rows) <= limit:
        return rows, None
    last = rows[limit - 1]
    return rows[:limit], Cursor(last.created_at, last.id).text()


def listing(items: Sequence[Any], next_cursor: str | None) -> dict[str, Any]:
    """The body of every list."""
    return {"items": items, "next_cursor": next_cursor}
