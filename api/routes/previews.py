"""Rendering a template for a look, saved or not. Nothing is kept and nothing is sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dependencies import PathKey, Service, services_of
from api.documents import operation
from api.errors import FieldError, invalid
from api.responses import reply
from api.routes.templates import VIEW, check, find, shown_parts
from api.schemas import PreviewBody, UnsavedPreviewBody
from api.views import PreviewView
from models.enums import Channel
from models.repositories import templates
from streams.domain.template_variables import completed
from streams.domain.templates import MissingVariable, Renderer, TemplateError

router = APIRouter(prefix="/api/v1/templates", tags=["templates"])

_DATA = {"name": "Ada", "order": {"id": 4711}}
_RENDERED = {
    "channels": {
        "email": {"subject": "Your order 4711", "text": "Hello Ada, it has shipped."},
        "in_app": {"title": "Shipped", "body": "Order 4711 is on its way."},
    }
}


@router.post(
    "/preview",
    **operation(
        "Preview parts that are not saved",
        "Renders them with `data` by the same sandbox as notifications. An e-mail is shown as it would be sent: css in "
        "its tags, MJML as html, and with the text made from html where it has none of its own. What is wrong is "
        "named: a part that breaks a rule, or a variable that `data` lacks.",
        takes=UnsavedPreviewBody,
        takes_example={"channels": VIEW["channels"], "data": _DATA},
        answer=PreviewView,
        example=_RENDERED,
    ),
)
async def preview_unsaved(request: Request, _: Service) -> Response:
    body = await read(request, UnsavedPreviewBody)
    return _rendered(services_of(request).renderer, body.channels.parts(), body.data)


@router.post(
    "/{key}/preview",
    **operation(
        "Preview a template",
        "Renders a version, the newest where none is named, or unsaved `channels` in its place.",
        takes=PreviewBody,
        takes_example={"data": _DATA},
        answer=PreviewView,
        example=_RENDERED,
        errors=["not_found"],
    ),
)
async def preview(key: PathKey, request: Request, _: Service) -> Response:
    body = await read(request, PreviewBody)
    services = services_of(request)
    async with services.engine.connect() as connection:
        known = await templates.locales(connection, key)
        locale, exact = body.locale or services.settings.default_locale, body.locale is not None
        stored = await find(connection, key, known, locale, body.version, exact=exact)
    channels = stored.channels if body.channels is None else body.channels.parts()
    return _rendered(services.renderer, channels, body.data, stored.locale)


def _rendered(
    renderer: Renderer,
    channels: Mapping[Channel, Mapping[str, str]],
    data: Mapping[str, Any],
    locale: str | None = None,
) -> Response:
    check(channels)
    rendered: dict[Channel, dict[str, str]] = {}
    errors: dict[str, FieldError] = {}
    for channel, parts in channels.items():
        try:
            rendered[channel] = renderer.render(channel, parts, completed(data), locale=locale)
        except MissingVariable as error:
            name = f"data.{error.name}"
            errors[name] = FieldError(name, f"is missing; {channel} {error.field} prints it")
        except TemplateError as error:
            name = f"channels.{channel}.{error.field}"
            errors[name] = FieldError(name, error.reason)
    if errors:
        raise invalid(errors.values())
    return reply({"channels": shown_parts(rendered)})
