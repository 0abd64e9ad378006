"""Categories of notifications."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dependencies import Admin, PathKey, Service, services_of
from api.documents import operation
from api.errors import FieldError, Problem, invalid, not_found
from api.paging import CursorText, Limit, key_cursor, key_cursor_of, listing
from api.responses import reply, without_nulls
from api.schemas import CategoryBody, NewCategoryBody
from api.suppressions import ResumeBody, ResumeView
from api.views import CategoryView
from models.repositories import audit, bounce_rates, categories
from models.repositories.bounce_rates import Pause
from models.repositories.categories import StoredCategory

router = APIRouter(prefix="/api/v1/categories", tags=["categories"])

_BODY = {
    "transactional": False,
    "default_channels": ["email", "in_app"],
    "priority": "normal",
    "quiet_hours": "defer",
}
_VIEW = {
    "key": "billing",
    **_BODY,
    "created_at": "2026-01-01T12:00:00.000Z",
    "updated_at": "2026-01-01T12:00:00.000Z",
}
_PAUSED = {"channel": "email", "since": "2026-01-01T12:30:00.000Z", "sent": 1200, "bounced": 130}


@router.post(
    "",
    **operation(
        "Create a category",
        "Requests name it in `category`; those that name none fall into `general`.",
        takes=NewCategoryBody,
        takes_example={"key": "billing", **_BODY},
        answer=CategoryView,
        example=_VIEW,
        status=201,
        errors=["already_exists"],
    ),
)
async def create_category(request: Request, _: Admin) -> Response:
    body = await read(request, NewCategoryBody)
    services = services_of(request)
    async with services.engine.begin() as connection:
        stored = await categories.create(connection, key=body.key, **_values(body))
    if stored is None:
        raise Problem("already_exists", "A category with this key exists; PUT replaces it.")
    services.checks.forget()
    return reply(_view(stored), status=201)


@router.get(
    "",
    **operation("List categories", "All categories, by key.", answer=CategoryView, example=_VIEW, many=True),
)
async def list_categories(request: Request, _: Service, limit: Limit = 50, cursor: CursorText = None) -> Response:
    after = key_cursor_of(cursor, parts=1)
    async with services_of(request).engine.connect() as connection:
        found = await categories.page(connection, after=after[0] if after else None, limit=limit + 1)
        paused = await bounce_rates.pauses(connection)
    shown = found[:limit]
    following = key_cursor(shown[-1].key) if len(found) > limit else None
    return reply(listing([_view(category, paused.get(category.key, ())) for category in shown], following))


@router.get(
    "/{key}",
    **operation(
        "Read a category",
        "One category. `paused` tells that its bulk (priority `low`) is held back, because too much of it came back.",
        answer=CategoryView,
        example=_VIEW | {"paused": [_PAUSED]},
        errors=["not_found"],
    ),
)
async def get_category(key: PathKey, request: Request, _: Service) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await categories.get(connection, key)
        paused = await bounce_rates.pauses(connection)
    if found is None:
        raise not_found("category")
    return reply(_view(found, paused.get(key, ())))


@router.post(
    "/{key}/resume",
    **operation(
        "Resume a category's bulk",
        "What was held back goes out within 15 minutes; nothing of it was lost. From now on bounces are counted anew. "
        "The reason is written to the audit log.",
        takes=ResumeBody,
        takes_example={"reason": "the list was cleaned"},
        answer=ResumeView,
        example={"category": "billing", "resumed": True},
    ),
)
async def resume_category(key: PathKey, request: Request, admin: Admin) -> Response:
    body = await read(request, ResumeBody)
    async with services_of(request).engine.begin() as connection:
        ended = await bounce_rates.resume(connection, key, who=admin.user_id)
        if ended:
            details = {"category": key, "channels": [pause.channel for pause in ended]}
            await audit.record(connection, who=admin.user_id, act=audit.Act.RESUME, reason=body.reason, details=details)
    return reply({"category": key, "resumed": bool(ended)})


@router.put(
    "/{key}",
    **operation(
        "Create or replace a category",
        "The whole category: what is left out has its default again. Takes effect within seconds.",
        takes=CategoryBody,
        takes_example=_BODY,
        answer=CategoryView,
        example=_VIEW,
    ),
)
async def put_category(key: PathKey, request: Request, _: Admin) -> Response:
    body = await read(request, CategoryBody)
    if body.key is not None and body.key != key:
        raise invalid([FieldError("key", "must be the one in the path, or left out")])
    services = services_of(request)
    async with services.engine.begin() as connection:
        stored = await categories.put(connection, key=key, **_values(body))
    services.checks.forget()
    return reply(_view(stored))


def _values(body: CategoryBody) -> dict[str, Any]:
    return {
        "transactional": body.transactional,
        "default_channels": body.default_channels,
        "priority": body.priority,
        "quiet_hours": body.quiet_hours,
    }


def _view(category: StoredCategory, paused: Sequence[Pause] = ()) -> dict[str, Any]:
    told = [
        {"channel": pause.channel, "since": pause.paused_at, "sent": pause.sent, "bounced": pause.bounced}
        for pause in paused
    ]
    return without_nulls({**asdict(category), "paused": told or None})
