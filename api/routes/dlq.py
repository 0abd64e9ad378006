"""Dead letters for operators: looking at them, and sending them back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Path, Query
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dead_letters import (
    AskedReplayView,
    DeadLetterSummary,
    DeadLetterView,
    ErrorClass,
    Reason,
    ReplayBody,
    ReplayCountView,
    ReplayView,
    TopicName,
)
from api.dependencies import Admin, PathId, services_of
from api.documents import operation
from api.errors import FieldError, invalid, not_found
from api.paging import CursorText, Limit, bad_cursor, cursor_of, key_cursor, key_cursor_of, listing, page
from api.responses import reply, without_nulls
from api.services import root_path
from models.enums import Channel, Stage
from models.errors import Refused
from models.repositories import audit, dead_letter_search, replays
from models.repositories.dead_letter_search import Wanted
from models.repositories.replays import Runner, StoredReplay
from models.requests import Instant
from streams.letter_view import described, fate, indexed
from streams.letters import Place, letter_reader
from streams.replay import Summary, ask, foreseen, summary

router = APIRouter(prefix="/api/v1/dlq", tags=["operators"])

_SUMMARY: dict[str, Any] = {
    "id": "3-17",
    "failed_at": "2026-01-01T12:00:00.000Z",
    "stage": "delivery",
    "error_class": "retry",
    "error_reason": "451 4.7.1 try again later",
    "attempts": 6,
    "generation": 0,
    "notification_id": "019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071",
    "channel": "email",
    "source": {"topic": "notification.send.email.normal", "partition": 5, "offset": 9041},
}
_VIEW = {
    **_SUMMARY,
    "is_kept": True,
    "key": "user-42",
    "headers": [{"name": "error-class", "value": "retry"}, {"name": "x-theirs", "value": "(7 bytes, hidden)"}],
    "value": {"bytes": 812, "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"},
    "replay": {
        "possible": True,
        "topic": "notification.send.email.normal",
        "generation": 1,
        "told": "goes back to notification.send.email.normal as replay 1, its attempts counted from 1",
    },
}
_COUNTS = {
    "matched": 120,
    "to_replay": 117,
    "skipped": {"already_replayed": 3},
    "groups": [{"error_class": "retry", "channel": "email", "topic": "notification.send.email.normal", "letters": 120}],
}
_REPLAY_ID = "019a3f60-1b2c-7d3e-8f4a-5b6c7d8e9f0a"
_REPLAY = {
    "replay_id": _REPLAY_ID,
    "state": "running",
    "who": "operator-1",
    "reason": "the provider is back",
    "wanted": {"error_class": "retry", "channel": "email"},
    "rate": 500,
    "force": False,
    "matched": 120,
    "replayed": 80,
    "skipped": {"already_replayed": 3},
    "created_at": "2026-01-01T13:00:00.000Z",
    "updated_at": "2026-01-01T13:00:00.160Z",
}


def _plus(value: object) -> object:
    """A plus sign that was not escaped in the query arrives as a blank."""
    return value.replace(" ", "+") if isinstance(value, str) else value


_Moment = Annotated[Instant, BeforeValidator(_plus)]
StageFilter = Annotated[Stage | None, Query(description="Where in the flow it failed.")]
ClassFilter = Annotated[ErrorClass | None, Query(description="What kind of failure.", examples=["retry"])]
ChannelFilter = Annotated[Channel | None, Query(description="On this channel.")]
TopicFilter = Annotated[TopicName | None, Query(description="The topic it came from, without prefix.")]
NotificationFilter = Annotated[UUID | None, Query(description="About this notification.")]
SinceFilter = Annotated[_Moment | None, Query(description="Not older; RFC 3339.", examples=["2026-01-01T12:00:00Z"])]
UntilFilter = Annotated[_Moment | None, Query(description="Older; RFC 3339.", examples=["2026-01-02T12:00:00Z"])]
LetterPath = Annotated[str, Path(pattern=r"^[0-9]{1,9}-[0-9]{1,18}$", examples=["3-17"])]


@router.get(
    "",
    **operation(
        "List dead letters",
        "The newest first, without content; all filters must fit.",
        answer=DeadLetterSummary,
        example=_SUMMARY,
        many=True,
        errors=["invalid"],
    ),
)
async def list_dead_letters(
    request: Request,
    _: Admin,
    stage: StageFilter = None,
    error_class: ClassFilter = None,
    channel: ChannelFilter = None,
    topic: TopicFilter = None,
    notification_id: NotificationFilter = None,
    since: SinceFilter = None,
    until: UntilFilter = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    wanted = Wanted(
        stage=stage,
        error_class=error_class,
        channel=channel,
        topic=topic,
        notification_id=notification_id,
        since=since,
        until=until,
    )
    before = _letter_of(cursor)
    async with services_of(request).engine.connect() as connection:
        rows = await dead_letter_search.find(connection, wanted, limit=limit + 1, before=before)
    following = key_cursor(rows[limit - 1].id) if len(rows) > limit else None
    return reply(listing([indexed(row) for row in rows[:limit]], following))


def _letter_of(cursor: str | None) -> str | None:
    found = key_cursor_of(cursor, 1)
    if found is None:
        return None
    try:
        return str(Place.of(found[0]))
    except Refused:
        raise bad_cursor() from None


@router.post(
    "/replay",
    **operation(
        "Replay dead letters",
        "By ids or by filters. `dry_run` only counts, and is answered with 200. Else the workers replay them in the "
        "background, at most `rate` a second, whatever is restarted meanwhile. A letter is replayed once; what fails "
        "again is a letter of its own, to be replayed anew. Letters that came after the request are left alone.",
        takes=ReplayBody,
        takes_example={"error_class": "retry", "channel": "email", "reason": "the provider is back"},
        answer=AskedReplayView,
        example={**_COUNTS, "replay_id": _REPLAY_ID, "status_url": f"/api/v1/dlq/replays/{_REPLAY_ID}"},
        status=202,
        other_answers={200: (ReplayCountView, _COUNTS)},
    ),
)
async def replay_dead_letters(request: Request, admin: Admin) -> Response:
    body = await read(request, ReplayBody)
    services = services_of(request)
    async with services.engine.begin() as connection:
        counted = await summary(connection, body.wanted())
        if body.dry_run or body.reason is None:
            return reply(_counts(counted, force=body.force))
        replay_id = await ask(
            connection,
            body.wanted(),
            who=admin.user_id,
            reason=body.reason,
            rate=body.rate,
            force=body.force,
            runner=Runner.WORKERS,
            matched=counted.matched,
        )
    url = f"{root_path(services.settings)}/api/v1/dlq/replays/{replay_id}"
    told = {**_counts(counted, force=body.force), "replay_id": replay_id, "status_url": url}
    return reply(told, status=202, headers={"Location": url})


def _counts(counted: Summary, *, force: bool) -> dict[str, Any]:
    return {
        "matched": counted.matched,
        "to_replay": counted.to_replay(force=force),
        "skipped": counted.skipped(force=force),
        "groups": [
            {
                "error_class": group.error_class,
                "channel": group.channel,
                "topic": group.source_topic,
                "letters": group.letters,
            }
            for group in counted.groups
        ],
    }


@router.get(
    "/replays",
    **operation(
        "List replays",
        "The newest first: who replayed what, why, and how far it is.",
        answer=ReplayView,
        example=_REPLAY,
        many=True,
        errors=["invalid"],
    ),
)
async def list_replays(request: Request, _: Admin, limit: Limit = 50, cursor: CursorText = None) -> Response:
    place = cursor_of(cursor)
    before = None if place is None else (place.created_at, place.id)
    async with services_of(request).engine.connect() as connection:
        rows = await replays.page(connection, limit=limit + 1, before=before)
    shown, following = page(rows, limit)
    return reply(listing([_replay(row) for row in shown], following))


@router.get(
    "/replays/{replay_id}",
    **operation(
        "Read a replay",
        "How far it is.",
        answer=ReplayView,
        example=_REPLAY,
        errors=["not_found"],
    ),
)
async def get_replay(replay_id: PathId, request: Request, _: Admin) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await replays.get(connection, replay_id)
    if found is None:
        raise not_found("replay")
    return reply(_replay(found))


def _replay(row: StoredReplay) -> Mapping[str, Any]:
    return without_nulls(
        {
            "replay_id": row.id,
            "state": row.state,
            "who": row.who,
            "reason": row.reason,
            "wanted": row.wanted.document(),
            "rate": row.rate,
            "force": row.force,
            "matched": row.matched,
            "replayed": row.replayed,
            "skipped": row.skipped,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
            "finished_at": row.finished_at,
        }
    )


@router.get(
    "/{letter_id}",
    **operation(
        "Read a dead letter",
        "Why it died, its headers, and what replaying it would do. Its content is hidden; `content=true` shows it, "
        "needs a `reason`, and is written to the audit log. A letter past the topic's retention is told by its index.",
        answer=DeadLetterView,
        example=_VIEW,
        errors=["not_found", "invalid"],
    ),
)
async def get_dead_letter(
    letter_id: LetterPath,
    request: Request,
    admin: Admin,
    content: Annotated[bool, Query(description="Show the content too. This is audited.")] = False,
    reason: Annotated[Reason | None, Query(description="Why the content is to be shown.")] = None,
) -> Response:
    if content and reason is None:
        raise invalid([FieldError("reason", "is needed where content is shown")])
    services = services_of(request)
    try:
        place = Place.of(letter_id)
    except Refused:
        raise not_found("dead letter") from None
    async with services.engine.connect() as connection:
        row = await dead_letter_search.get(connection, str(place))
    if row is None:
        raise not_found("dead letter")
    async with letter_reader(services.settings, name="comms-api") as reader:
        record = await reader.one(place)
    async with services.engine.begin() as connection:
        if content and reason is not None:
            details = {"ids": [str(place)]}
            await audit.record(connection, who=admin.user_id, act=audit.Act.LOOK, reason=reason, details=details)
        outlook = await foreseen(connection, row, record)
    told = {} if record is None else described(record, content=content)
    return reply(told | indexed(row) | {"is_kept": record is not None, "replay": fate(outlook)})
