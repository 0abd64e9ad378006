"""What waits where, as it was sampled."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import Response

from api.dependencies import Admin, services_of
from api.documents import operation
from api.errors import not_found
from api.paging import CursorText, Limit, bad_cursor, key_cursor, key_cursor_of, listing
from api.responses import reply
from api.views import QueueView
from models.repositories import queue_metrics
from models.requests import Instant
from streams.queues import QUEUES, described

router = APIRouter(prefix="/api/v1/queues", tags=["operators"])

#: A history starts here where the caller names no time.
_RECENT = timedelta(hours=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
#: Up to the year 5138.
_NUMBER = re.compile(r"[0-9]{1,17}", re.ASCII)
_VIEW = {
    "lane": "send-email-normal",
    "topic": "notification.send.email.normal",
    "sampled_at": "2026-01-01T12:00:00.000Z",
    "state": "flowing",
    "lag": 1200,
    "in_per_second": 480.0,
    "out_per_second": 510.4,
    "oldest_age_seconds": 2.4,
    "members": 2,
}


def _plus(value: object) -> object:
    """A plus sign that was not escaped in the query arrives as a blank."""
    return value.replace(" ", "+") if isinstance(value, str) else value


Lane = Annotated[str, Path(max_length=100, examples=["send-email-normal"])]
Since = Annotated[
    Annotated[Instant, BeforeValidator(_plus)] | None,
    Query(description="Not older; RFC 3339. Left out: the last hour.", examples=["2026-01-01T11:00:00Z"]),
]


@router.get(
    "",
    **operation(
        "List queues",
        "The newest sample of every queue, in the order of the flow: request lanes, send lanes, contacts, providers' "
        "events, delay tiers, outbox, schedules, providers' events that match nothing yet, dead letters. Taken every "
        "five seconds as long as a worker runs; `sampled_at` tells.",
        answer=QueueView,
        example=_VIEW,
        many=True,
    ),
)
async def list_queues(request: Request, _: Admin) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = {sample.lane: sample for sample in await queue_metrics.newest(connection)}
    return reply(listing([described(found[name]) for name in QUEUES if name in found], None))


@router.get(
    "/{lane}",
    **operation(
        "Read a queue's history",
        "Samples of one queue, newest first: all of the last hour, and one a minute of the last seven days.",
        answer=QueueView,
        example=_VIEW,
        many=True,
        errors=["not_found", "invalid"],
    ),
)
async def queue_history(
    lane: Lane,
    request: Request,
    _: Admin,
    since: Since = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    if lane not in QUEUES:
        raise not_found("queue")
    start, before = since or datetime.now(UTC) - _RECENT, None
    if cursor is not None:  # Also where the list starts, so that "the last hour" doesn't move from page to page.
        start, before = _places(cursor)
    async with services_of(request).engine.connect() as connection:
        found = await queue_metrics.history(connection, lane, since=start, before=before, limit=limit + 1)
    shown = found[:limit]
    following = key_cursor(_ticks(start), _ticks(shown[-1].sampled_at)) if len(found) > limit else None
    return reply(listing([described(sample) for sample in shown], following))


def _ticks(at: datetime) -> str:
    return str((at - _EPOCH) // _TICK)


def _places(cursor: str) -> tuple[datetime, datetime]:
    """Where the list starts, and where the page before ended."""
    parts = key_cursor_of(cursor, parts=2) or ()
    if not all(_NUMBER.fullmatch(part) for part in parts):
        raise bad_cursor()
    start, before = (_EPOCH + int(part) * _TICK for part in parts)
    return start, before
