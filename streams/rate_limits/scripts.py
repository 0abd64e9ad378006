"""The Lua scripts, their keys and arguments: one round trip each, whatever the batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from redis.asyncio import Redis

from models.enums import Priority
from models.limits import Limit
from streams.domain.limits import Rate, rate_of

_FOLDER = Path(__file__).parents[1]
#: How long a request's own slot is known: longer than a crashed worker's batch needs to be read again.
_REMEMBERED = timedelta(minutes=2)
#: A worker that has been silent for longer is no more.
_ALIVE = timedelta(seconds=10)
#: How often one of the workers takes samples.
_ROUND = timedelta(seconds=10)
_MICROSECONDS = 1_000_000


@dataclass(frozen=True, slots=True)
class Reservation:
    """A request that asks for a slot. `notification_id` makes asking twice harmless."""

    notification_id: UUID
    user_id: str
    category: str


@dataclass(frozen=True, slots=True)
class Slot:
    """A reserved slot, and when the person's bucket would be full again, both in seconds from now."""

    wait_seconds: float
    full_in_seconds: float


@dataclass(frozen=True, slots=True)
class Taken:
    """What a take was given."""

    granted: int
    wait_seconds: float
    is_held: bool


@dataclass(frozen=True, slots=True)
class State:
    """How a shared bucket is now."""

    tokens: float
    held_seconds: float


@dataclass(frozen=True, slots=True)
class Workers:
    """What a sign of life was answered with."""

    alive: int
    is_our_turn: bool


class LimitScripts:
    """The scripts on one Redis. Errors of the client pass through."""

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._prefix = f"{key_prefix}limit:"
        self._buckets = redis.register_script((_FOLDER / "token_bucket.lua").read_text())
        self._slots = redis.register_script((_FOLDER / "user_slots.lua").read_text())
        self._workers = redis.register_script((_FOLDER / "live_workers.lua").read_text())

    async def take(self, limits: Sequence[Limit], provider: str, priority: Priority, wanted: int) -> Taken:
        """Takes tokens from all of the limits' buckets, as many as each of them has; learns of a hold."""
        reply = await self._run("take", wanted, limits, provider, priority)
        granted, wait_us, is_held = reply
        return Taken(granted, wait_us / _MICROSECONDS, bool(is_held))

    async def give_back(self, limits: Sequence[Limit], provider: str, count: int) -> None:
        """Puts tokens back that were not used."""
        await self._run("give_back", count, limits, provider)

    async def hold(self, provider: str, wait: timedelta) -> None:
        """Grants none of the provider's tokens for so long."""
        await self._run("hold", max(1, wait // timedelta(milliseconds=1)), (), provider)

    async def states(self, limits: Sequence[Limit]) -> list[State]:
        """How the bucket of each limit is, taking nothing from it."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for limit in limits:
                await self._run("peek", 0, [limit], limit.target, client=pipe)
            replies = await pipe.execute()
        return [State(tokens / _MICROSECONDS, held_us / _MICROSECONDS) for held_us, tokens in replies]

    async def reserve(self, asked: Sequence[tuple[Reservation, Limit, float]]) -> list[Slot]:
        """A slot for each request under its limit; the third is how many seconds are known to be taken already."""
        limits = list({limit.target: limit for _, limit, _ in asked}.values())
        place = {limit.target: number for number, limit in enumerate(limits, start=1)}
        keys: list[str] = [f"{self._prefix}born"]
        values: list[Any] = [_REMEMBERED // timedelta(milliseconds=1), len(limits)]
        for limit in limits:
            values += (_MICROSECONDS / limit.per_second, limit.burst, limit.created_at.timestamp())
        for one, limit, taken_seconds in asked:
            # The length keeps apart what a separator in an id could mix up.
            person = f"{len(one.user_id)}:{one.user_id}:{one.category}"
            keys += (f"{self._prefix}user:{person}", f"{self._prefix}slot:{one.notification_id.hex}")
            values += (place[limit.target], taken_seconds * _MICROSECONDS)
        reply = await self._slots(keys=keys, args=values)
        pairs = zip(reply[::2], reply[1::2], strict=True)
        return [Slot(wait_us / _MICROSECONDS, full_us / _MICROSECONDS) for wait_us, full_us in pairs]

    async def sign_of_life(self, worker: str) -> Workers:
        """Counts this worker among the living."""
        keys = [f"{self._prefix}workers", f"{self._prefix}born", f"{self._prefix}turn"]
        args: list[str | int] = [worker, int(_ALIVE.total_seconds()), _ROUND // timedelta(milliseconds=1)]
        alive, turn = await self._workers(keys=keys, args=args)
        return Workers(max(1, alive), bool(turn))

    async def _run(
        self,
        operation: str,
        number: int,
        limits: Sequence[Limit],
        provider: str,
        priority: Priority = Priority.HIGH,
        client: Redis | None = None,
    ) -> Any:
        keys = [f"{self._prefix}hold:{provider}"]
        values: list[Any] = [operation, number]
        for limit in limits:
            rate: Rate = rate_of(limit)
            keys.append(f"{self._prefix}bucket:{limit.scope}:{limit.target}")
            values += (rate.per_second, rate.burst, rate.left_to_higher(priority))
        return await self._buckets(keys=keys, args=values, client=client)
