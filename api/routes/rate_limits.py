"""Limits, and how full their buckets are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Path
from redis.exceptions import RedisError
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dependencies import Admin, services_of
from api.documents import operation
from api.errors import FieldError, invalid, not_found
from api.paging import CursorText, Limit, key_cursor, key_cursor_of, listing
from api.responses import reply, without_nulls
from api.schemas import RateLimitBody
from api.services import Services
from api.views import RateLimitView
from models.enums import Channel
from models.limits import ANY_CATEGORY, Scope
from models.repositories import rate_limits
from models.repositories.rate_limits import StoredLimit
from streams.providers.registry import provider_names
from streams.rate_limits import State

log = structlog.get_logger()
router = APIRouter(prefix="/api/v1/rate-limits", tags=["operators"])

_CATEGORY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_BODY = {"permits": 100, "per_seconds": 1, "burst": 200}
_VIEW = {
    "scope": "provider",
    "target": "sendgrid",
    **_BODY,
    "created_at": "2026-01-01T12:00:00.000Z",
    "updated_at": "2026-01-01T12:00:00.000Z",
    "bucket": {"tokens": 162.5, "at": "2026-01-01T12:30:00.000Z", "source": "redis"},
}

ScopeName = Annotated[str, Path(max_length=64, description="`user`, `channel` or `provider`.", examples=["provider"])]
Target = Annotated[
    str,
    Path(
        max_length=200,
        description="For `user` a category, or `*` for all without a limit of their own; else a channel or provider.",
        examples=["sendgrid"],
    ),
]


@router.get(
    "",
    **operation(
        "List limits",
        "All limits by scope and target, with the state of the shared buckets. What has no limit is not limited.",
        answer=RateLimitView,
        example=_VIEW,
        many=True,
    ),
)
async def list_limits(request: Request, _: Admin, limit: Limit = 50, cursor: CursorText = None) -> Response:
    after = key_cursor_of(cursor, parts=2)
    services = services_of(request)
    async with services.engine.connect() as connection:
        found = await rate_limits.page(connection, after=(after[0], after[1]) if after else None, limit=limit + 1)
    shown = found[:limit]
    following = key_cursor(shown[-1].scope, shown[-1].target) if len(found) > limit else None
    return reply(listing(await _views(services, shown), following))


@router.get(
    "/{scope}/{target}",
    **operation("Read a limit", "One limit.", answer=RateLimitView, example=_VIEW, errors=["not_found"]),
)
async def get_limit(scope: ScopeName, target: Target, request: Request, _: Admin) -> Response:
    services = services_of(request)
    if _errors(scope, target):
        raise not_found("limit")
    async with services.engine.connect() as connection:
        found = await rate_limits.get(connection, Scope(scope), target)
    if found is None:
        raise not_found("limit")
    return reply((await _views(services, [found]))[0])


@router.put(
    "/{scope}/{target}",
    **operation(
        "Create or replace a limit",
        "Holds in all workers within two seconds. Slots that people have reserved by then stay theirs.",
        takes=RateLimitBody,
        takes_example=_BODY,
        answer=RateLimitView,
        example=_VIEW,
    ),
)
async def put_limit(scope: ScopeName, target: Target, request: Request, _: Admin) -> Response:
    body = await read(request, RateLimitBody)
    wrong = _errors(scope, target) + _differences(body, scope, target)
    if wrong:
        raise invalid(wrong)
    services = services_of(request)
    async with services.engine.begin() as connection:
        stored = await rate_limits.put(
            connection,
            Scope(scope),
            target,
            permits=body.permits,
            per_seconds=body.per_seconds,
            burst=body.permits if body.burst is None else body.burst,
        )
    log.info("limit set", scope=scope, target=target, permits=body.permits, per_seconds=body.per_seconds)
    return reply((await _views(services, [stored]))[0])


@router.delete(
    "/{scope}/{target}",
    **operation(
        "Remove a limit",
        "From then on nothing is limited by it. What is throttled already still waits for its slot.",
        answer=None,
        status=204,
        errors=["not_found"],
    ),
)
async def delete_limit(scope: ScopeName, target: Target, request: Request, _: Admin) -> Response:
    if _errors(scope, target):
        raise not_found("limit")
    async with services_of(request).engine.begin() as connection:
        if not await rate_limits.delete(connection, Scope(scope), target):
            raise not_found("limit")
    log.info("limit removed", scope=scope, target=target)
    return Response(status_code=204)


def _errors(scope: str, target: str) -> list[FieldError]:
    """What is wrong with a path."""
    if scope not in set(Scope):
        return [FieldError("scope", f"must be one of {', '.join(Scope)}")]
    if scope == Scope.USER:
        if target == ANY_CATEGORY or _CATEGORY.fullmatch(target):
            return []
        return [FieldError("target", f"must be the key of a category, or {ANY_CATEGORY} for all without their own")]
    known = list(Channel) if scope == Scope.CHANNEL else provider_names()
    return [] if target in known else [FieldError("target", f"must be one of {', '.join(known)}")]


def _differences(body: RateLimitBody, scope: str, target: str) -> list[FieldError]:
    given = {"scope": (body.scope, scope), "target": (body.target, target)}
    return [
        FieldError(name, "must be the one in the path, or left out")
        for name, (said, meant) in given.items()
        if said is not None and said != meant
    ]


async def _views(services: Services, limits: Sequence[StoredLimit]) -> list[dict[str, Any]]:
    shared = [limit for limit in limits if limit.scope is not Scope.USER]
    states: Mapping[tuple[Scope, str], State] = {}
    if shared:
        try:
            found = await services.limits.states(shared)
            states = {(limit.scope, limit.target): state for limit, state in zip(shared, found, strict=True)}
        except (RedisError, OSError, TimeoutError) as error:
            log.warning("limits are shown as sampled: redis is away", error=type(error).__name__)
    return [_view(limit, states.get((limit.scope, limit.target))) for limit in limits]


def _view(limit: StoredLimit, state: State | None) -> dict[str, Any]:
    return without_nulls(
        {
            "scope": limit.scope,
            "target": limit.target,
            "permits": limit.permits,
            "per_seconds": limit.per_seconds,
            "burst": limit.burst,
            "created_at": limit.created_at,
            "updated_at": limit.updated_at,
            "bucket": _bucket(limit, state),
        }
    )


def _bucket(limit: StoredLimit, state: State | None) -> dict[str, Any] | None:
    if state is not None:
        held = state.held_seconds or None
        return without_nulls({"tokens": state.tokens, "at": datetime.now(UTC), "source": "redis", "held_seconds": held})
    if limit.tokens is None or limit.sampled_at is None:
        return None
    return {"tokens": limit.tokens, "at": limit.sampled_at, "source": "sample"}
