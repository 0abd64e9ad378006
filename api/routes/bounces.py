"""Messages that came back, and how much of each category does."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Query
from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import Response

from api.dependencies import Service, services_of
from api.documents import operation
from api.paging import CursorText, Limit, cursor_of, key_cursor, key_cursor_of, listing, page
from api.responses import reply
from api.routes.suppressions import AddressFilter, ChannelFilter
from api.suppressions import BounceRateView, BounceView, bounce_view, listed
from models.repositories import bounce_rates, bounces
from models.repositories.bounce_rates import BounceRate
from models.repositories.bounces import Wanted
from models.requests import Instant
from models.suppressions import BounceKind

router = APIRouter(prefix="/api/v1/bounces", tags=["suppressions"])

_VIEW = {
    "bounce_id": "019a3f5e-6c7d-4e0f-8a1b-2c3d4e5f6072",
    "channel": "email",
    "address": "ada@example.com",
    "kind": "hard",
    "reason": "5.1.1",
    "category": "news",
    "delivery_id": "5f0c6f7e-2a3b-5c4d-8e9f-0a1b2c3d4e52",
    "occurred_at": "2026-01-01T12:00:00.000Z",
}
_RATE = {"category": "news", "sent": 12000, "bounced": 660, "soft": 40, "rate": 0.055, "paused": False}


def _plus(value: object) -> object:
    """A plus sign that was not escaped in the query arrives as a blank."""
    return value.replace(" ", "+") if isinstance(value, str) else value


_Moment = Annotated[Instant, BeforeValidator(_plus)]


@router.get(
    "",
    **operation(
        "List bounces",
        "The newest first; all filters must fit. Each message is there once for each time that it came back, however "
        "often a provider told it. Addresses are shown whole, as in suppressions.",
        answer=BounceView,
        example=_VIEW,
        many=True,
        errors=["invalid"],
    ),
)
async def list_bounces(
    request: Request,
    _: Service,
    channel: ChannelFilter = None,
    category: Annotated[str | None, Query(max_length=128, description="Of this category.")] = None,
    kind: Annotated[BounceKind | None, Query(description="`hard`: for good; `soft`: for now.")] = None,
    address: AddressFilter = None,
    delivery_id: Annotated[UUID | None, Query(description="Of this delivery.")] = None,
    since: Annotated[_Moment | None, Query(description="Not older; RFC 3339.")] = None,
    until: Annotated[_Moment | None, Query(description="Older; RFC 3339.")] = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    wanted = Wanted(
        channel=channel,
        category=category,
        kind=kind,
        address=listed(channel, address),
        delivery_id=delivery_id,
        since=since,
        until=until,
    )
    place = cursor_of(cursor)
    before = None if place is None else (place.created_at, place.id)
    async with services_of(request).engine.connect() as connection:
        rows = await bounces.page(connection, wanted, limit=limit + 1, before=before)
    shown, following = page(rows, limit)
    return reply(listing([bounce_view(row) for row in shown], following))


@router.get(
    "/rates",
    **operation(
        "Read bounce rates",
        "How much e-mail of each category came back for good within `BOUNCE_RATE_HOURS`, or since its bulk was last "
        "resumed. From 5 % of 1,000 on operators are warned, from 10 % on the category's bulk is held back "
        "(`BOUNCE_RATE_…`). What was sent in the last minute is not counted yet.",
        answer=BounceRateView,
        example=_RATE,
        many=True,
        errors=["invalid"],
    ),
)
async def list_rates(request: Request, _: Service, limit: Limit = 50, cursor: CursorText = None) -> Response:
    after = key_cursor_of(cursor, parts=1)
    services = services_of(request)
    window = timedelta(hours=services.settings.bounce_rate_hours)
    async with services.engine.connect() as connection:
        found = await bounce_rates.rates(connection, window=window, after=after[0] if after else None, limit=limit + 1)
    shown = found[:limit]
    following = key_cursor(shown[-1].category) if len(found) > limit else None
    return reply(listing([_rate(one) for one in shown], following))


def _rate(one: BounceRate) -> dict[str, Any]:
    return {
        "category": one.category,
        "sent": one.sent,
        "bounced": one.bounced,
        "soft": one.soft,
        "rate": round(one.rate, 6),
        "paused": one.is_paused,
    }
