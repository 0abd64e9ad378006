"""What lanes ask: tokens of a provider, slots of people. Never an exception, never unlimited."""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import structlog
from redis.exceptions import RedisError

from models.enums import Channel, Priority
from models.limits import Limit
from streams.domain.limits import Definitions
from streams.metrics import LIMIT_TOKENS, LIMITS_LOCAL
from streams.rate_limits.local import LocalBuckets, LocalSlots
from streams.rate_limits.scripts import LimitScripts, Reservation, Taken, Workers

log = structlog.get_logger()

T = TypeVar("T")
_Asked = tuple[Reservation, Limit]

#: Each batch waits for the answer, which takes a millisecond: what takes longer than this counts as away.
PATIENCE_SECONDS = 0.5
#: After a failure Redis isn't asked for so long: a server that hangs must not stall each batch.
AWAY_SECONDS = 3.0
#: Until the definitions were read once, nothing is granted.
_UNREAD_WAIT_SECONDS = 0.1
_AWAY = (RedisError, OSError, TimeoutError)


@dataclass(frozen=True, slots=True)
class Grant:
    """What may be called now, and for how many seconds asking again is no use (0 when all was granted)."""

    granted: int
    wait_seconds: float
    #: The provider asked to be left alone until then.
    is_held: bool = False


class RateLimits:
    """The limits of one process; all its lanes ask the same one."""

    def __init__(self, scripts: LimitScripts, *, workers: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._scripts = scripts
        self._configured_workers = workers
        self._workers = workers
        self._clock = clock
        self._definitions: Definitions | None = None
        self._were_read = asyncio.Event()
        self._buckets = LocalBuckets(clock=clock)
        self._slots = LocalSlots(clock=clock)
        self._away_until = 0.0
        self._is_away = False
        #: Tokens that came from Redis since it was last away: no others are given back to it.
        self._refundable: dict[tuple[Channel, str], int] = defaultdict(int)

    # -- what is defined

    @property
    def definitions(self) -> Definitions:
        """What is defined, as far as it was read."""
        return self._definitions or Definitions()

    def define(self, definitions: Definitions) -> None:
        """From now on these limits hold."""
        self._definitions = definitions
        self._were_read.set()

    def is_limited(self, category: str) -> bool:
        """Whether people may get only so much of a category (or that is not known yet)."""
        return self._definitions is None or self._definitions.for_user(category) is not None

    # -- tokens

    async def take(self, channel: Channel, provider: str, priority: Priority, wanted: int) -> Grant:
        """Takes up to `wanted` calls of a provider."""
        if self._definitions is None:
            return Grant(0, _UNREAD_WAIT_SECONDS)
        held = self._buckets.held_seconds(provider)
        if held:
            return Grant(0, held, is_held=True)
        limits = self._definitions.shared(channel, provider)
        taken = await self._asking(lambda: self._scripts.take(limits, provider, priority, wanted))
        if taken is None:
            taken = self._buckets.take(limits, priority, wanted, self._workers)
        else:
            self._refundable[channel, provider] += taken.granted
        return self._grant(channel, provider, wanted, taken)

    def _grant(self, channel: Channel, provider: str, wanted: int, taken: Taken) -> Grant:
        if taken.is_held:
            self._buckets.hold(provider, taken.wait_seconds)
        LIMIT_TOKENS.labels(channel, provider, "granted").inc(taken.granted)
        LIMIT_TOKENS.labels(channel, provider, "withheld").inc(wanted - taken.granted)
        return Grant(taken.granted, taken.wait_seconds, taken.is_held)

    async def give_back(self, channel: Channel, provider: str, count: int) -> None:
        """Puts back what was taken and not called."""
        limits = self.definitions.shared(channel, provider)
        if not limits or count <= 0:
            return
        refunded = min(count, self._refundable[channel, provider])
        if refunded:
            self._refundable[channel, provider] -= refunded
            await self._asking(lambda: self._scripts.give_back(limits, provider, refunded))
        elif self._is_away:
            self._buckets.give_back(limits, count, self._workers)

    async def hold(self, provider: str, seconds: float) -> None:
        """A provider asked to be left alone (Retry-After): no process calls it before."""
        if seconds > 0:
            self._buckets.hold(provider, seconds)
            await self._asking(lambda: self._scripts.hold(provider, timedelta(seconds=seconds)))

    # -- slots

    async def reserve(self, asked: Sequence[Reservation]) -> list[float]:
        """The seconds until the slot of each request; 0 where it may go now.

        Waits until the definitions were read once: before that, everything would pass.
        """
        await self._were_read.wait()
        waits = [0.0] * len(asked)
        limited = [
            (place, one, limit)
            for place, one in enumerate(asked)
            if (limit := self.definitions.for_user(one.category)) is not None
        ]
        if limited:
            found = await self._reserve([(one, limit) for _, one, limit in limited])
            for (place, *_), wait in zip(limited, found, strict=True):
                waits[place] = wait
        return waits

    async def _reserve(self, asked: Sequence[_Asked]) -> list[float]:
        asked_at = self._clock()
        known = [(one, limit, self._slots.taken_seconds(one)) for one, limit in asked]
        slots = await self._asking(lambda: self._scripts.reserve(known))
        if slots is None:
            return [self._slots.reserve(one, limit, self._workers) for one, limit in asked]
        for (one, _), slot in zip(asked, slots, strict=True):
            self._slots.note(one, slot, asked_at=asked_at)
        return [slot.wait_seconds for slot in slots]

    # -- Redis, there or away

    async def sign_of_life(self, worker: str) -> Workers | None:
        """Tells Redis that this worker lives, however long it was away; None where it doesn't answer."""
        workers = await self._asking(lambda: self._scripts.sign_of_life(worker), is_probe=True)
        if workers is not None:
            self._workers = max(self._configured_workers, workers.alive)
        return workers

    async def _asking(self, ask: Callable[[], Awaitable[T]], *, is_probe: bool = False) -> T | None:
        """The answer of Redis; None while it is away."""
        if not is_probe and self._clock() < self._away_until:
            return None
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                answer = await ask()
        except _AWAY as error:
            self._went_away(error)
            return None
        if self._is_away:
            self._came_back()
        return answer

    def _went_away(self, error: Exception) -> None:
        self._away_until = self._clock() + AWAY_SECONDS
        self._refundable.clear()
        if not self._is_away:
            self._is_away = True
            LIMITS_LOCAL.set(1)
            log.warning("limits count alone: redis is away", error=type(error).__name__, workers=self._workers)

    def _came_back(self) -> None:
        self._is_away, self._away_until = False, 0.0
        LIMITS_LOCAL.set(0)
        log.info("limits count together again")
