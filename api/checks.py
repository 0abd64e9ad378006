"""What HTTP can know about a request before taking it: its template, its variables, its channels.

The lanes decide again, with what holds then. A check that can't be made because the database is away is left out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence

import structlog
from cachetools import TTLCache
from sqlalchemy.ext.asyncio import AsyncEngine

from api.errors import FieldError, invalid
from models.audience import Template
from models.enums import Channel, Priority
from models.errors import Refused
from models.repositories import audience, categories
from models.repositories.categories import StoredCategory
from models.requests import NotificationRequest
from models.settings import Settings
from streams.domain.mime import check_email_content, check_email_options
from streams.domain.planning import pick_template
from streams.domain.template_variables import completed
from streams.domain.templates import MissingVariable, Renderer, TemplateError, parts_for
from streams.errors import is_passing

log = structlog.get_logger()

_LOOK_UP_SECONDS = 2.0
_FRESH_SECONDS = 2.0
_REASONS = {
    "template_unknown": "no such template is published",
    "template_lacks_channel": "the template has no parts for {channel}",
}


class Checks:
    """Refuses early, and finds the lane. One per process."""

    def __init__(self, *, engine: AsyncEngine, settings: Settings, renderer: Renderer) -> None:
        self._engine = engine
        self._default_locale = settings.default_locale
        self._renderer = renderer
        self._published: TTLCache[str, Sequence[Template]] = TTLCache(2000, _FRESH_SECONDS)
        self._categories: TTLCache[str, StoredCategory] = TTLCache(2000, _FRESH_SECONDS)

    def forget(self) -> None:
        """Drops what is remembered, after this process has changed it."""
        self._published.clear()
        self._categories.clear()

    async def check(self, request: NotificationRequest) -> Priority:
        """Which lane the request takes.

        Raises:
            Problem: 422, naming the fields that are wrong.
            Refused: an option that no e-mail can have.
        """
        if request.options.email is not None:
            check_email_options(request.options.email)
        category, templates = await self._known(request)
        channels = request.wanted_channels or (category.default_channels if category is not None else ())
        if not channels and category is not None:
            raise Refused("channels", "name a channel: the category has no default ones")
        errors = list(self._errors(request, channels, templates))
        if errors:
            raise invalid({error.field: error for error in errors}.values())
        if request.priority is not None:
            return request.priority
        return (category and category.priority) or Priority.NORMAL

    async def _known(self, request: NotificationRequest) -> tuple[StoredCategory | None, Sequence[Template] | None]:
        """The request's category and its template in all locales; None for what can't be known now."""
        category = self._categories.get(request.category)
        templates = None if request.template_id is None else self._published.get(request.template_id)
        if category is not None and (templates is not None or request.template_id is None):
            return category, templates
        try:
            async with asyncio.timeout(_LOOK_UP_SECONDS):
                category = await self._category(request)
                templates = None if request.template_id is None else await self._templates(request.template_id)
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("request unchecked: the database is away", error=type(error).__name__)
            return None, None
        return category, templates

    async def _category(self, request: NotificationRequest) -> StoredCategory | None:
        known = self._categories.get(request.category)
        if known is None:
            async with self._engine.connect() as connection:
                known = await categories.get(connection, request.category)
            if known is not None:
                self._categories[request.category] = known
            elif not request.wanted_channels:
                raise Refused("channels", "name a channel: the category is unknown, so it has no default ones")
        return known

    async def _templates(self, key: str) -> Sequence[Template]:
        known = self._published.get(key)
        if known is None:
            async with self._engine.connect() as connection:
                known = await audience.templates(connection, [key])
            # What is missing is never remembered, so a template can be used the moment it is published.
            if known:
                self._published[key] = known
        return known

    def _errors(
        self, request: NotificationRequest, channels: Sequence[Channel], templates: Sequence[Template] | None
    ) -> Iterator[FieldError]:
        for channel in channels:
            try:
                parts = self._parts(request, channel, templates)
                rendered = {} if parts is None else self._rendered(channel, parts, request.data)
                if channel is Channel.EMAIL and parts is not None:
                    check_email_content(rendered)
            except TemplateError as error:
                yield _template_error(request, channel, error)
            except Refused as error:
                reason = _REASONS.get(error.reason, error.reason).format(channel=channel)
                yield FieldError(error.field, reason)

    def _rendered(self, channel: Channel, parts: Mapping[str, str], data: Mapping[str, object]) -> dict[str, str]:
        """Without the text that is made from html: it can't fail where the html doesn't."""
        return self._renderer.render(channel, parts, completed(data), with_text=False)

    def _parts(
        self, request: NotificationRequest, channel: Channel, templates: Sequence[Template] | None
    ) -> Mapping[str, str] | None:
        if request.content is not None:
            return parts_for(channel, request.content.parts())
        if templates is None:
            return None
        return pick_template(templates, channel, request.recipient.locale, self._default_locale).parts


def _template_error(request: NotificationRequest, channel: Channel, error: TemplateError) -> FieldError:
    if isinstance(error, MissingVariable):
        return FieldError(f"data.{error.name}", f"is missing; {channel} {error.field} prints it")
    if request.content is not None:
        return FieldError(f"content.{error.field}", error.reason)
    return FieldError("template_id", f"{channel} {error.field}: {error.reason}")
