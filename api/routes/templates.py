"""Templates: versions and publishing. Rendering one for a look is in `previews`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Query
from sqlalchemy.ext.asyncio import AsyncConnection
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import parsed, read, read_bytes
from api.dependencies import Admin, PathKey, Service, services_of
from api.documents import operation
from api.errors import FieldError, Problem, invalid, not_found
from api.paging import CursorText, Limit, bad_cursor, key_cursor, key_cursor_of, listing
from api.responses import reply
from api.schemas import NewTemplateBody, PublishBody, TemplateBody
from api.views import Parts, TemplateView, TemplateWithLocales
from models.enums import Channel
from models.repositories import templates
from models.repositories.templates import NewTemplate, StoredTemplate
from streams.domain.push import DATA_PREFIX
from streams.domain.templates import check_parts, variables

router = APIRouter(prefix="/api/v1/templates", tags=["templates"])

LocaleText = Annotated[
    str | None,
    Query(
        pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,3}$", description="Absent: the default one.", examples=["en"]
    ),
]
VersionNumber = Annotated[int | None, Query(ge=1, le=2_000_000_000, description="Absent: the newest.", examples=[1])]

_CHANNELS = {
    "email": {"subject": "Your order {{ order.id }}", "text": "Hello {{ name }}, it has shipped."},
    "in_app": {"title": "Shipped", "body": "Order {{ order.id }} is on its way."},
}
_BODY = {"category": "orders", "locale": "en", "channels": _CHANNELS}
VIEW = {
    "key": "order-shipped",
    "locale": "en",
    "version": 1,
    "category": "orders",
    "variables": ["name", "order"],
    "channels": _CHANNELS,
    "draft": False,
    "created_by": "admin-1",
    "created_at": "2026-01-01T12:00:00.000Z",
    "published_at": "2026-01-01T12:00:00.000Z",
}


@router.post(
    "",
    **operation(
        "Create a template",
        "Published at once unless `draft`. Parts are Jinja: variables, filters, `if` and `for`; what breaks a rule is "
        "named. A further locale of a key is created the same way; a further version by PUT.",
        takes=NewTemplateBody,
        takes_example={"key": "order-shipped", **_BODY},
        answer=TemplateView,
        example=VIEW,
        status=201,
        errors=["already_exists"],
    ),
)
async def create_template(request: Request, admin: Admin) -> Response:
    body = await read(request, NewTemplateBody)
    new = _new(body, body.key, _default_locale(request), admin.user_id)
    async with services_of(request).engine.begin() as connection:
        await templates.lock(connection, new.key)
        if new.locale in await templates.locales(connection, new.key):
            raise Problem("already_exists", "This template has this locale; PUT adds a version.")
        stored = await templates.add(connection, new)
    services_of(request).checks.forget()
    return reply(view(stored), status=201)


@router.put(
    "/{key}",
    **operation(
        "Add a version",
        "Published at once unless `draft`. A template or locale that isn't there yet is created (201).",
        takes=TemplateBody,
        takes_example=_BODY,
        answer=TemplateView,
        example=VIEW | {"version": 2},
    ),
)
@router.post(
    "/{key}/versions",
    **operation(
        "Add a version (as POST)",
        "The same as PUT on the template; always answered with 201.",
        takes=TemplateBody,
        takes_example=_BODY,
        answer=TemplateView,
        example=VIEW | {"version": 2},
        status=201,
    ),
)
async def add_version(key: PathKey, request: Request, admin: Admin) -> Response:
    body = await read(request, TemplateBody)
    if body.key is not None and body.key != key:
        raise invalid([FieldError("key", "must be the one in the path, or left out")])
    new = _new(body, key, _default_locale(request), admin.user_id)
    async with services_of(request).engine.begin() as connection:
        await templates.lock(connection, key)
        stored = await templates.add(connection, new)
    services_of(request).checks.forget()
    return reply(view(stored), status=201 if stored.version == 1 or request.method == "POST" else 200)


@router.get(
    "",
    **operation(
        "List templates",
        "The newest version of each key and locale, by key.",
        answer=TemplateView,
        example=VIEW,
        many=True,
    ),
)
async def list_templates(request: Request, _: Service, limit: Limit = 50, cursor: CursorText = None) -> Response:
    after = key_cursor_of(cursor, parts=2)
    async with services_of(request).engine.connect() as connection:
        found = await templates.page(connection, after=after, limit=limit + 1)
    following = key_cursor(found[limit - 1].key, found[limit - 1].locale) if len(found) > limit else None
    return reply(listing([view(template) for template in found[:limit]], following))


@router.get(
    "/{key}",
    **operation(
        "Read a template",
        "The newest version, drafts included, in the asked or the default locale; and which locales there are.",
        answer=TemplateWithLocales,
        example=VIEW | {"locales": ["de", "en"]},
        errors=["not_found", "invalid"],
    ),
)
async def get_template(
    key: PathKey, request: Request, _: Service, locale: LocaleText = None, version: VersionNumber = None
) -> Response:
    async with services_of(request).engine.connect() as connection:
        known = await templates.locales(connection, key)
        stored = await find(
            connection, key, known, locale or _default_locale(request), version, exact=locale is not None
        )
    return reply(view(stored) | {"locales": known})


@router.get(
    "/{key}/versions",
    **operation(
        "List versions",
        "All versions of a template, the newest first; of one locale where it is named.",
        answer=TemplateView,
        example=VIEW,
        many=True,
        errors=["not_found"],
    ),
)
async def list_versions(
    key: PathKey,
    request: Request,
    _: Service,
    locale: LocaleText = None,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    before = _version_cursor(cursor)
    async with services_of(request).engine.connect() as connection:
        found = await templates.versions(connection, key, locale=locale, before=before, limit=limit + 1)
    if not found and before is None:
        raise not_found("template")
    shown = found[:limit]
    following = key_cursor(str(shown[-1].version), shown[-1].locale) if len(found) > limit else None
    return reply(listing([view(template) for template in shown], following))


@router.post(
    "/{key}/publish",
    **operation(
        "Publish a version",
        "Puts a draft into use: the newest, or the one named. A version older than the one in use comes back as a copy "
        "with the next number. Takes effect within seconds.",
        takes=PublishBody,
        takes_example={"version": 1},
        optional_body=True,
        answer=TemplateView,
        example=VIEW,
        errors=["not_found"],
    ),
)
async def publish(key: PathKey, request: Request, admin: Admin) -> Response:
    raw = await read_bytes(request, may_be_empty=True)
    body = parsed(PublishBody, raw) if raw else PublishBody()
    async with services_of(request).engine.begin() as connection:
        await templates.lock(connection, key)
        known = await templates.locales(connection, key)
        locale, exact = body.locale or _default_locale(request), body.locale is not None
        stored = await find(connection, key, known, locale, body.version, exact=exact)
        stored = await templates.publish(connection, stored, published_by=admin.user_id)
    services_of(request).checks.forget()
    return reply(view(stored))


async def find(
    connection: AsyncConnection, key: str, known: Sequence[str], locale: str, version: int | None, *, exact: bool
) -> StoredTemplate:
    """A version in `locale`; unless `exact`, in the first locale where the template hasn't that one.

    Raises:
        Problem: 404.
    """
    if known and not exact and locale not in known:
        locale = known[0]
    found = await templates.get(connection, key, locale=locale, version=version)
    if found is None:
        raise not_found("template" if not known else "version of this template")
    return found


def view(template: StoredTemplate) -> dict[str, Any]:
    """A version as it is shown."""
    return {
        "key": template.key,
        "locale": template.locale,
        "version": template.version,
        "category": template.category,
        "variables": template.variables,
        "channels": shown_parts(template.channels),
        "draft": template.published_at is None,
        "created_by": template.created_by,
        "created_at": template.created_at,
        "published_at": template.published_at,
    }


def shown_parts(channels: Mapping[Channel, Mapping[str, str]]) -> dict[str, Parts]:
    """Parts as they were given, with the values of a push message's data under `data`."""
    return {channel: _nested(parts) for channel, parts in channels.items()}


def _nested(parts: Mapping[str, str]) -> Parts:
    data = {name.removeprefix(DATA_PREFIX): value for name, value in parts.items() if name.startswith(DATA_PREFIX)}
    shown: Parts = {name: value for name, value in parts.items() if not name.startswith(DATA_PREFIX)}
    return shown | {"data": data} if data else shown


def check(channels: Mapping[Channel, Mapping[str, str]]) -> None:
    """Refuses parts that break a rule.

    Raises:
        Problem: 422, naming all parts that do.
    """
    errors = [
        FieldError(f"channels.{channel}.{error.field}", error.reason)
        for channel, parts in channels.items()
        for error in check_parts(channel, parts)
    ]
    if errors:
        raise invalid(errors)


def _new(body: TemplateBody, key: str, default_locale: str, created_by: str) -> NewTemplate:
    channels = body.channels.parts()
    check(channels)
    found = {name for channel, parts in channels.items() for name in variables(parts, channel)}
    return NewTemplate(
        key=key,
        locale=body.locale or default_locale,
        category=body.category,
        variables=sorted(found) if body.variables is None else body.variables,
        channels=channels,
        created_by=created_by,
        published=not body.draft,
    )


def _default_locale(request: Request) -> str:
    return services_of(request).settings.default_locale


def _version_cursor(text: str | None) -> tuple[int, str] | None:
    place = key_cursor_of(text, parts=2)
    if place is None:
        return None
    number, locale = place
    if not (number.isascii() and number.isdigit() and len(number) < 10):
        raise bad_cursor()
    return int(number), locale
