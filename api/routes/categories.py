"""Categories of notifications."""

from __future__ import annotations

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
from api.views import CategoryView
from models.repositories import categories
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
    shown = found[:limit]
    following = key_cursor(shown[-1].key) if len(found) > limit else None
    return reply(listing([_view(category) for category in shown], following))


@router.get(
    "/{key}",
    **operation("Read a category", "One category.", answer=CategoryView, example=_VIEW, errors=["not_found"]),
)
async def get_category(key: PathKey, request: Request, _: Service) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await categories.get(connection, key)
    if found is None:
        raise not_found("category")
    return reply(_view(found))


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


def _view(category: StoredCategory) -> dict[str, Any]:
    return without_nulls(asdict(category))
