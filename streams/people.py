"""What is known about people, kept for a moment by each process; right without Redis too, only slower."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from models.audience import Person
from models.repositories import audience
from streams.metrics import PEOPLE_READS
from streams.people_versions import MAX_AGE, NoVersions, Versions

#: People that a process keeps at the most: about a kilobyte each.
ROOM = 20_000

PEOPLE_HITS = PEOPLE_READS.labels("hit")
PEOPLE_MISSES = PEOPLE_READS.labels("miss")

#: Reads people from the database; those nothing is known of are absent.
Load = Callable[[AsyncConnection, Collection[str]], Awaitable[dict[str, Person]]]


class FetchesVersions(Protocol):
    """The part of the versions that a reader needs."""

    def fetch(self, user_ids: Sequence[str]) -> Awaitable[Versions | None]:
        """Versions of these people; None: do without."""


#: The version, when it was asked for (monotonic seconds), and who, or None where nothing is known.
_Kept = tuple[tuple[str, str], float, Person | None]


class _Seen:
    """Who was asked for lately: at least the last `room` people, at most twice as many."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._now: set[str] = set()
        self._before: set[str] = set()

    def again(self, user_id: str) -> bool:
        """Whether this one was asked for before; from now on, they were."""
        if user_id in self._now or user_id in self._before:
            return True
        if len(self._now) >= self._room:
            self._before, self._now = self._now, set()
        self._now.add(user_id)
        return False


class People:
    """Contact, devices and preferences of people, by user id.

    Kept is who is asked for a second time: a bulk to millions, each once, costs next to nothing more than reading them.
    """

    def __init__(
        self,
        versions: FetchesVersions | None = None,
        *,
        load: Load = audience.people,
        room: int = ROOM,
        at_first_sight: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._versions = versions or NoVersions()
        self._load = load
        self._room = room
        self._at_first_sight = at_first_sight
        self._seen = _Seen(room)
        self._clock = clock
        #: The one that was not asked for for the longest time comes first.
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def read(self, connection: AsyncConnection, user_ids: Collection[str]) -> dict[str, Person]:
        """These people; those nothing is known of are absent. In one round trip to Redis, where all are kept."""
        wanted = list(user_ids)
        versions = await self._versions.fetch(wanted)
        if versions is None:
            return await self._load(connection, wanted)
        found, missing = self._look_up(wanted, versions)
        PEOPLE_HITS.inc(len(wanted) - len(missing))
        if missing:
            PEOPLE_MISSES.inc(len(missing))
            loaded = await self._load(connection, missing)
            self._keep(missing, loaded, versions)
            found |= loaded
        return found

    def _look_up(self, user_ids: Sequence[str], versions: Versions) -> tuple[dict[str, Person], list[str]]:
        """Those who are kept and hold, and who is to be read."""
        kept, oldest = self._kept, self._clock() - MAX_AGE.total_seconds()
        found: dict[str, Person] = {}
        missing: list[str] = []
        for user_id in user_ids:
            entry = kept.get(user_id)
            if entry is None or entry[0] != versions.of(user_id) or entry[1] < oldest:
                missing.append(user_id)
                continue
            kept.move_to_end(user_id)
            if entry[2] is not None:
                found[user_id] = entry[2]
        return found, missing

    def _keep(self, user_ids: Sequence[str], loaded: dict[str, Person], versions: Versions) -> None:
        """Under the version from before the database was read: what changed since has another one by now."""
        kept, again = self._kept, self._seen.again
        for user_id in user_ids:
            version = versions.of(user_id)
            if version is not None and (again(user_id) or self._at_first_sight):
                kept[user_id] = (version, versions.at, loaded.get(user_id))
                kept.move_to_end(user_id)
        while len(kept) > self._room:
            kept.popitem(last=False)
