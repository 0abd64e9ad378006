"""What is known about people, kept for a moment by each process; right without Redis too, only slower."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from cachetools import LRUCache
from sqlalchemy.ext.asyncio import AsyncConnection

from models.audience import Person
from models.repositories import audience
from streams.metrics import PEOPLE_KEPT
from streams.people_versions import MAX_AGE, NoVersions, Versions

#: People that a process keeps at the most: about a kilobyte each.
ROOM = 20_000

#: Reads people from the database; those nothing is known of are absent.
Load = Callable[[AsyncConnection, Collection[str]], Awaitable[dict[str, Person]]]


class FetchesVersions(Protocol):
    """The part of the versions that a reader needs."""

    def fetch(self, user_ids: Sequence[str]) -> Awaitable[Versions | None]:
        """Versions of these people; None: do without."""


@dataclass(frozen=True, slots=True)
class _Kept:
    version: tuple[str, str]
    #: When the version was asked for, in monotonic seconds.
    at: float
    person: Person | None


class People:
    """Contact, devices and preferences of people, by user id."""

    def __init__(
        self,
        versions: FetchesVersions | None = None,
        *,
        load: Load = audience.people,
        room: int = ROOM,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions or NoVersions()
        self._load = load
        self._kept: LRUCache[str, _Kept] = LRUCache(room)
        self._clock = clock

    async def read(self, connection: AsyncConnection, user_ids: Collection[str]) -> dict[str, Person]:
        """These people; those nothing is known of are absent. In one round trip to Redis, where all are kept."""
        wanted = list(user_ids)
        versions = await self._versions.fetch(wanted)
        if versions is None:
            return await self._load(connection, wanted)
        found: dict[str, Person] = {}
        missing: list[str] = []
        for user_id in wanted:
            kept = self._kept.get(user_id)
            if kept is None or not self._holds(kept, versions.of(user_id)):
                missing.append(user_id)
            elif kept.person is not None:
                found[user_id] = kept.person
        PEOPLE_KEPT.labels("hit").inc(len(wanted) - len(missing))
        PEOPLE_KEPT.labels("miss").inc(len(missing))
        if missing:
            loaded = await self._load(connection, missing)
            self._keep(missing, loaded, versions)
            found |= loaded
        return found

    def _holds(self, kept: _Kept, version: tuple[str, str] | None) -> bool:
        return kept.version == version and self._clock() - kept.at <= MAX_AGE.total_seconds()

    def _keep(self, user_ids: Sequence[str], loaded: dict[str, Person], versions: Versions) -> None:
        """Under the version from before the database was read: what changed since has another one by now."""
        for user_id in user_ids:
            version = versions.of(user_id)
            if version is not None:
                self._kept[user_id] = _Kept(version, versions.at, loaded.get(user_id))
