"""The providers of each channel's chain, and how they are."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.dependencies import Admin, services_of
from api.documents import operation
from api.paging import listing
from api.responses import reply, without_nulls
from api.services import Services
from api.views import ProviderStateView
from models.limits import Scope
from models.repositories import rate_limits
from models.repositories.rate_limits import StoredLimit
from streams.errors import is_passing
from streams.provider_states import merged

log = structlog.get_logger()
router = APIRouter(prefix="/api/v1/providers", tags=["operators"])

#: The limits are a courtesy here: states are told without the database, too.
_PATIENCE_SECONDS = 2.0
_VIEW = {
    "channel": "email",
    "provider": "sendgrid",
    "place": 1,
    "state": "broken",
    "detail": "401",
    "since": "2026-01-01T12:00:00.000Z",
    "until": "2026-01-01T12:01:00.000Z",
    "weight": 70.0,
    "share": 0.0,
    "workers": 2,
    "workers_in_state": 2,
    "limit": {"permits": 100, "per_seconds": 1, "burst": 200, "tokens": 162.5},
}


@router.get(
    "",
    **operation(
        "List providers",
        "All providers by channel, in the order of their fail-over chain, with the worst state that any worker sees "
        "and how many see it. Workers tell theirs every two seconds, through Redis; without it, or without a worker, "
        "the state is `unknown`.",
        answer=ProviderStateView,
        example=_VIEW,
        many=True,
    ),
)
async def list_providers(request: Request, _: Admin) -> Response:
    services = services_of(request)
    told, limits = await asyncio.gather(services.states.read_or_nothing(), _limits(services))
    found = merged(services.settings, told)
    return reply(
        listing([without_nulls(asdict(each) | {"limit": _limit(limits, each.provider)}) for each in found], None)
    )


async def _limits(services: Services) -> Mapping[str, StoredLimit]:
    """By provider; none where the database is away."""
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS), services.engine.connect() as connection:
            every = await rate_limits.every(connection)
    except Exception as error:
        if not is_passing(error):
            raise
        log.info("providers are shown without their limits", error=type(error).__name__)
        return {}
    return {limit.target: limit for limit in every if limit.scope is Scope.PROVIDER}


def _limit(limits: Mapping[str, StoredLimit], provider: str) -> dict[str, Any] | None:
    limit = limits.get(provider)
    if limit is None:
        return None
    shown = {"permits": limit.permits, "per_seconds": limit.per_seconds, "burst": limit.burst}
    return shown | ({} if limit.tokens is None else {"tokens": limit.tokens})
