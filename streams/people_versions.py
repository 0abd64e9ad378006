"""Versions of what is known about people, in Redis: they tell a process whether what it has kept still holds.

A writer marks a person before its transaction commits, and gives them a new version afterwards. A reader asks for the
versions before it reads the database, and keeps what it read under the version it was told before. So in whatever order
the steps of both come, what is kept under the current version is no older than the last finished change.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol, TypeVar

import structlog
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from models.settings import Settings

log = structlog.get_logger()

T = TypeVar("T")

#: What is kept is used for so long at the most: also where a version could not be written.
MAX_AGE = timedelta(seconds=60)
#: Versions outlive what was kept under the one before, many times over.
_KEPT = timedelta(minutes=10)
#: After a failure Redis isn't asked for so long: a server that hangs must not stall each batch.
_AWAY_SECONDS = 3.0
#: Readers have the database; writers would rather wait a little.
_READ_SECONDS = 0.1
_WRITE_SECONDS = 0.5
_RETRY_SECONDS = 1.0
_AWAY = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Versions:
    """Versions of people at one moment; `at` is in monotonic seconds."""

    at: float
    #: Only of those who changed lately, with the epoch; None while somebody is writing about them.
    changed: Mapping[str, tuple[str, str] | None]
    #: Of everybody else.
    unchanged: tuple[str, str]

    def of(self, user_id: str) -> tuple[str, str] | None:
        """What must be the same for what was kept to hold; None: nothing may be kept now."""
        return self.changed.get(user_id, self.unchanged)


def people_redis(settings: Settings) -> Redis:
    """A client that would rather fail than wait; connects on first use."""
    client: Redis = Redis.from_url(
        settings.redis_url,
        socket_timeout=_WRITE_SECONDS,
        socket_connect_timeout=_WRITE_SECONDS,
        # A connection that died while it was idle is made again; what hangs is not asked twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return client


@asynccontextmanager
async def open_people(settings: Settings) -> AsyncIterator[PeopleVersions]:
    """The versions for a worker, on a connection of their own. Waits for no server."""
    redis = people_redis(settings)
    versions = PeopleVersions(redis, key_prefix=settings.redis_key_prefix)
    try:
        yield versions
    finally:
        await versions.close()
        await redis.aclose()


class PeopleVersions:
    """The versions on one Redis, for readers and writers. Never raises because Redis is away."""

    def __init__(
        self,
        redis: Redis,
        *,
        key_prefix: str,
        read_seconds: float = _READ_SECONDS,
        write_seconds: float = _WRITE_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        folder = Path(__file__).parent
        self._versions = redis.register_script((folder / "people_versions.lua").read_text())
        self._changes = redis.register_script((folder / "people_changes.lua").read_text())
        self._prefix = f"{key_prefix}people:"
        self._read_seconds = read_seconds
        self._write_seconds = write_seconds
        self._clock = clock
        self._away_until = 0.0
        self._late: set[asyncio.Task[None]] = set()

    # -- readers

    async def fetch(self, user_ids: Sequence[str]) -> Versions | None:
        """The versions of these people; None while Redis is away or slow."""
        at = self._clock()
        keys = [f"{self._prefix}epoch", *(f"{self._prefix}of:{user_id}" for user_id in user_ids)]
        reply = await self._asking(lambda: self._versions(keys=keys, args=[secrets.token_hex(8)]), self._read_seconds)
        if reply is None:
            return None
        epoch = reply[0].decode()
        pairs = zip(reply[1::2], reply[2::2], strict=True)
        changed = {user_ids[place]: (epoch, version.decode()) if version else None for place, version in pairs}
        return Versions(at, changed, (epoch, ""))

    # -- writers

    @asynccontextmanager
    async def changing(self, *user_ids: str) -> AsyncIterator[Changing]:
        """Around a transaction that changes what is known about people: `async with changing(user), begin() as …`."""
        change = Changing(self)
        try:
            await change.also(*user_ids)
            yield change
        finally:  # Also where the transaction failed: nobody can tell how a lost commit ended.
            await asyncio.shield(asyncio.ensure_future(change.done()))

    async def mark(self, user_ids: Sequence[str], *, writers: int) -> bool:
        """Gives people new versions. False: Redis is away."""
        keys = [f"{self._prefix}of:{user_id}" for user_id in user_ids]
        args: list[str | int] = [writers, secrets.token_hex(8), _KEPT // timedelta(milliseconds=1)]
        return await self._asking(lambda: self._changes(keys=keys, args=args), self._write_seconds) is not None

    def mark_later(self, user_ids: Sequence[str]) -> None:
        """Goes on trying, as long as anything older could still be in use."""
        task = asyncio.create_task(self._mark_late(user_ids), name="people versions")
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def close(self) -> None:
        """Ends what is still being tried."""
        for task in self._late:
            task.cancel()
        await asyncio.gather(*self._late, return_exceptions=True)

    async def _mark_late(self, user_ids: Sequence[str]) -> None:
        ends = self._clock() + MAX_AGE.total_seconds()
        while self._clock() < ends:
            await asyncio.sleep(_RETRY_SECONDS)
            if await self.mark(user_ids, writers=0):
                return

    async def _asking(self, ask: Callable[[], Awaitable[T]], within_seconds: float) -> T | None:
        if self._clock() < self._away_until:
            return None
        try:
            async with asyncio.timeout(within_seconds):
                return await ask()
        except _AWAY as error:
            self._away_until = self._clock() + _AWAY_SECONDS
            log.warning("people are read without cache: redis is away", error=type(error).__name__)
            return None


class Changing:
    """A change that is being made."""

    def __init__(self, versions: PeopleVersions) -> None:
        self._versions = versions
        self._marked: list[str] = []
        self._unmarked: list[str] = []

    async def also(self, *user_ids: str) -> None:
        """Takes in more people, who are found out about within the transaction."""
        new = [user_id for user_id in user_ids if user_id not in (*self._marked, *self._unmarked)]
        if new:
            is_marked = await self._versions.mark(new, writers=1)
            (self._marked if is_marked else self._unmarked).extend(new)

    async def done(self) -> None:
        """After the commit."""
        for user_ids, writers in ((self._marked, -1), (self._unmarked, 0)):
            if user_ids and not await self._versions.mark(user_ids, writers=writers):
                self._versions.mark_later(user_ids)


class TellsOfChanges(Protocol):
    """The part of the versions that a writer needs."""

    def changing(self, *user_ids: str) -> AbstractAsyncContextManager[TakesMore]:
        """Around a transaction that changes what is known about people."""


class TakesMore(Protocol):
    """A change that is being made."""

    async def also(self, *user_ids: str) -> None:
        """Takes in more people."""


class VersionsPeople(TellsOfChanges, Protocol):
    """For readers and writers."""

    async def fetch(self, user_ids: Sequence[str]) -> Versions | None:
        """Versions of these people; None: do without."""


class NoVersions:
    """For whoever keeps nothing and has no Redis."""

    async def fetch(self, user_ids: Sequence[str]) -> Versions | None:
        """Nothing may be kept."""
        return None

    @asynccontextmanager
    async def changing(self, *user_ids: str) -> AsyncIterator[TakesMore]:
        """Nobody is told."""
        yield _Untold()


class _Untold:
    async def also(self, *user_ids: str) -> None:
        """Nobody is told."""
