"""People, categories and templates as the lanes use them: read for many, kept for a moment."""

from __future__ import annotations

from collections.abc import Collection

from cachetools import TTLCache
from sqlalchemy.ext.asyncio import AsyncConnection

from models.audience import Category, Person, Template
from models.repositories import audience
from streams.people import People

#: How long a process may use what has since been changed.
FRESH_SECONDS = 1.0


class Directory:
    """Caches in front of tables that change rarely and are read for each request.

    What is missing is never remembered, so a template can be used the moment it is published.
    """

    def __init__(self, people: People | None = None, *, fresh_seconds: float = FRESH_SECONDS) -> None:
        self._people = people or People()
        self._categories: TTLCache[str, dict[str, Category]] = TTLCache(1, fresh_seconds)
        self._templates: TTLCache[str, tuple[Template, ...]] = TTLCache(2000, fresh_seconds)

    async def people(self, connection: AsyncConnection, user_ids: Collection[str]) -> dict[str, Person]:
        """Contacts, devices and preferences as they are now; those nothing is known of are absent."""
        return await self._people.read(connection, user_ids)

    async def categories(self, connection: AsyncConnection) -> dict[str, Category]:
        """All categories by key."""
        known = self._categories.get("all")
        if known is None:
            known = self._categories["all"] = await audience.categories(connection)
        return known

    async def templates(self, connection: AsyncConnection, keys: Collection[str]) -> dict[str, tuple[Template, ...]]:
        """The newest published parts of these templates, by key; unknown keys are absent."""
        found = {key: kept for key in keys if (kept := self._templates.get(key)) is not None}
        missing = [key for key in keys if key not in found]
        if missing:
            rows = await audience.templates(connection, missing)
            for key in {row.key for row in rows}:
                found[key] = self._templates[key] = tuple(row for row in rows if row.key == key)
        return found
