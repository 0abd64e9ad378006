"""Reading notifications."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.requests import Request
from starlette.responses import Response

from api.dependencies import PathId, UserOrService, services_of
from api.documents import operation
from api.errors import Problem, not_found
from api.identity import Caller
from api.paging import CursorText, Limit, cursor_of, listing, page
from api.responses import reply, without_nulls
from api.timeline import shown_overall, shown_status, timeline
from api.views import NotificationSummary, NotificationView
from models.enums import Channel, Role, Status
from models.repositories import reading
from models.repositories.reading import StoredAttempt, StoredDelivery, StoredEvent, StoredNotification
from models.requests import Instant, Key, UserId
from streams.errors import is_passing
from streams.markers import Markers

router = APIRouter(prefix="/api/v1/notifications", tags=["notifications"])

_SUMMARY = {
    "notification_id": "019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071",
    "user_id": "user-42",
    "status": "sent",
    "category": "orders",
    "priority": "normal",
    "created_at": "2026-01-01T12:00:00.000Z",
    "updated_at": "2026-01-01T12:00:00.250Z",
    "metadata": {"order_id": "4711"},
}
_VIEW = {
    **_SUMMARY,
    "status": "delivered",
    "updated_at": "2026-01-01T12:00:04.100Z",
    "deliveries": [
        {
            "delivery_id": "5f0c6f7e-2a3b-5c4d-8e9f-0a1b2c3d4e5f",
            "channel": "email",
            "status": "delivered",
            "provider": "ses",
            "provider_message_id": "0100019a3f5e6c7d-5f0c6f7e-000000",
            "attempts": 1,
            "updated_at": "2026-01-01T12:00:04.100Z",
        }
    ],
    "timeline": [
        {"at": "2026-01-01T12:00:00.000Z", "event": "accepted"},
        {"at": "2026-01-01T12:00:00.100Z", "channel": "email", "event": "queued"},
        {"at": "2026-01-01T12:00:00.150Z", "channel": "email", "event": "sending", "detail": "attempt 1"},
        {"at": "2026-01-01T12:00:00.250Z", "channel": "email", "event": "sent", "detail": "attempt 1: ses"},
        {"at": "2026-01-01T12:00:04.000Z", "channel": "email", "event": "delivered", "detail": "ses"},
    ],
}


def _plus(value: object) -> object:
    """A plus sign that was not escaped in the query arrives as a blank."""
    return value.replace(" ", "+") if isinstance(value, str) else value


_Since = Annotated[Instant, BeforeValidator(_plus)]
UserFilter = Annotated[UserId | None, Query(description="Whose. A user gets their own in any case.")]
StatusFilter = Annotated[Status | None, Query(description="Where it stands.")]
ChannelFilter = Annotated[Channel | None, Query(description="Has a delivery on this channel.")]
CategoryFilter = Annotated[Key | None, Query(description="Its category.")]
SinceFilter = Annotated[_Since | None, Query(description="Not older; RFC 3339.", examples=["2026-01-01T12:00:00Z"])]


@router.get(
    "",
    **operation(
        "List notifications",
        "The newest first; all filters must fit. Users see their own.",
        answer=NotificationSummary,
        example=_SUMMARY,
        many=True,
        errors=["invalid"],
    ),
)
async def list_notifications(
    request: Request,
    caller: UserOrService,
    user_id: UserFilter = None,
    status: StatusFilter = None,
    channel: ChannelFilter = None,
    category: CategoryFilter = None,
    since: SinceFilter = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    place = cursor_of(cursor)
    async with services_of(request).engine.connect() as connection:
        rows = await reading.page(
            connection,
            user_id=_whose(caller, user_id),
            status=status,
            channel=channel,
            category=category,
            since=since,
            before=None if place is None else (place.created_at, place.id),
            limit=limit + 1,
        )
    shown, following = page(rows, limit)
    return reply(listing([_summary(row) for row in shown], following))


@router.get(
    "/{notification_id}",
    **operation(
        "Read a notification",
        "Its deliveries and what happened so far, attempt by attempt, and what providers told later (`delivered`, "
        "`bounced` and so on). Somebody else's is not found for a user. An id that was accepted while the database was "
        "away is found as `accepted` until its lane takes it up. What can't be known at the moment is a 503, never a "
        "404.",
        answer=NotificationView,
        example=_VIEW,
        errors=["not_found"],
    ),
)
async def get_notification(notification_id: PathId, request: Request, caller: UserOrService) -> Response:
    services = services_of(request)
    try:
        read = await _read(services.engine, notification_id)
    except Exception as error:
        if not is_passing(error):
            raise
        read = await _accepted(services.markers, notification_id)
        if read is None:  # there may be a row
            raise
    else:
        read = read or await _accepted(services.markers, notification_id)
    if read is None or not _may_read(caller, read[0]):
        raise not_found("notification")
    found, deliveries, attempts, events = read
    shown = _summary(found) | {
        "status": shown_overall(found, deliveries),
        "deliveries": [_delivery(one) for one in deliveries],
        "timeline": timeline(found, deliveries, attempts, events),
    }
    return reply(shown | without_nulls({"send_at": found.send_at, "expires_at": found.expires_at}))


_Read = tuple[StoredNotification, Sequence[StoredDelivery], Sequence[StoredAttempt], Sequence[StoredEvent]]


async def _read(engine: AsyncEngine, notification_id: UUID) -> _Read | None:
    """What the database has of a notification."""
    async with engine.connect() as connection:
        found = await reading.notification(connection, notification_id)
        if found is None:
            return None
        deliveries = await reading.deliveries(connection, notification_id)
        attempts = await reading.attempts(connection, notification_id) if deliveries else []
        events = await reading.events(connection, notification_id) if deliveries else []
    return found, deliveries, attempts, events


async def _accepted(markers: Markers, notification_id: UUID) -> _Read | None:
    """What is known of a notification whose lane has not written its row yet. Raises Unavailable without Redis."""
    marker = await markers.find(notification_id)
    if marker is None:
        return None
    found = StoredNotification(
        id=marker.id,
        user_id=marker.user_id,
        status=Status.ACCEPTED,
        category=marker.category,
        priority=marker.priority,
        reason=None,
        metadata=marker.metadata,
        send_at=marker.send_at,
        expires_at=marker.expires_at,
        created_at=marker.created_at,
        updated_at=marker.created_at,
    )
    return found, (), (), ()


def _may_read(caller: Caller, found: StoredNotification) -> bool:
    return caller.has(Role.SERVICE) or found.user_id == caller.user_id


def _whose(caller: Caller, user_id: str | None) -> str | None:
    if caller.has(Role.SERVICE):
        return user_id
    if user_id not in (None, caller.user_id):
        raise Problem("forbidden", "A user lists what is their own.")
    return caller.user_id


def _summary(row: StoredNotification) -> dict[str, Any]:
    return without_nulls(
        {
            "notification_id": row.id,
            "user_id": row.user_id,
            "status": row.status,
            "reason": row.reason,
            "category": row.category,
            "priority": row.priority,
            "created_at": row.created_at,
            "updated_at": row.updated_at,
            "metadata": row.metadata,
        }
    )


def _delivery(row: StoredDelivery) -> dict[str, Any]:
    return without_nulls(
        {
            "delivery_id": row.delivery_id,
            "channel": row.channel,
            "status": shown_status(row),
            "reason": row.reason,
            "provider": row.provider,
            "provider_message_id": row.provider_message_id,
            "attempts": row.attempts,
            "ambiguous": True if row.ambiguous else None,
            "segments": row.segments,
            "updated_at": row.updated_at,
        }
    )
