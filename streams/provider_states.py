"""What the workers know of their providers, where others can read it: each tells Redis every two seconds.

A worker's word has a key of its own that ends with it, so that nobody needs a clock: what is there is of the last
seconds. Several workers see one provider; the worst that any of them sees is shown, and how many of them see it.
Without Redis, or without a worker, nothing is known, and that is what is said.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

import orjson
import structlog
from mode import Service
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.enums import Channel
from models.ids import fresh
from models.settings import Settings
from streams.channels.health import Condition

log = structlog.get_logger()

EVERY = timedelta(seconds=2)
#: A worker that was silent for so long is not counted any more.
_LIVES = timedelta(seconds=10)
#: Longer than the worker's own key, and renewed by each of them.
_INDEX_LIVES = timedelta(minutes=5)
_PATIENCE_SECONDS = 2.0

#: No worker says anything of it.
UNKNOWN: Final = "unknown"
#: From the best to the worst.
_CONDITIONS = tuple(str(condition) for condition in Condition)

#: Of one worker: by channel and provider what `Chain.states` tells.
Told = Mapping[str, Mapping[str, Mapping[str, Any]]]


class HasStates(Protocol):
    """A chain, as far as it is watched."""

    channel: Channel

    def states(self) -> Mapping[str, Mapping[str, Any]]:
        """Each provider by name, as `Chain.states`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderState:
    """One provider in the eyes of all workers."""

    channel: Channel
    provider: str
    #: In the fail-over chain, from 1; None where only workers have it, whose settings differ from ours.
    place: int | None
    #: A condition, or `unknown`.
    state: str = UNKNOWN
    #: The vendor's own word for the trouble.
    detail: str | None = None
    since: datetime | None = None
    #: When it is tried again.
    until: datetime | None = None
    weight: float | None = None
    #: The part of the channel's calls that it gets now, where they are shared by weight.
    share: float | None = None
    workers: int = 0
    #: How many of them see this state.
    workers_in_state: int = 0


class ProviderStates:
    """The workers' words in Redis."""

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._index = f"{key_prefix}provider-states"

    async def tell(self, worker: str, told: Told) -> None:
        """Keeps a worker's word for the next seconds."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(f"{self._index}:{worker}", orjson.dumps(told), px=_LIVES)
            pipeline.sadd(self._index, worker)
            pipeline.pexpire(self._index, _INDEX_LIVES)
            await pipeline.execute()

    async def forget(self, worker: str) -> None:
        """The worker has ended."""
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.delete(f"{self._index}:{worker}")
            pipeline.srem(self._index, worker)
            await pipeline.execute()

    async def read(self) -> list[Told]:
        """What the workers that live say."""
        workers = [
            name.decode() if isinstance(name, bytes) else name for name in await self._redis.smembers(self._index)
        ]
        if not workers:
            return []
        words = await self._redis.mget([f"{self._index}:{worker}" for worker in workers])
        silent = [worker for worker, said in zip(workers, words, strict=True) if said is None]
        if silent:
            await self._redis.srem(self._index, *silent)
        return [orjson.loads(said) for said in words if said is not None]

    async def read_or_nothing(self) -> list[Told]:
        """The same, and nothing where Redis is away or slow."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self.read()
        except (RedisError, OSError, TimeoutError):
            return []


class StateTeller(Service):  # type: ignore[misc]
    """Tells the states of this process's chains for as long as it runs. Redis may be away: nothing waits for it."""

    def __init__(
        self,
        states: ProviderStates,
        chains: Sequence[HasStates],
        *,
        every: timedelta = EVERY,
        worker: str | None = None,
        **service: Any,
    ) -> None:
        super().__init__(**service)
        self._states = states
        self._chains = chains
        self._every = every
        self._worker = worker or f"{socket.gethostname()}-{os.getpid()}-{fresh().hex[-8:]}"
        self._is_away = False

    async def on_stop(self) -> None:
        """Takes its word back, so that a worker that was stopped isn't counted on."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._states.forget(self._worker)
        except (RedisError, OSError, TimeoutError):
            log.info("states of providers are left to expire")

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        while not self.should_stop:
            await self.tell()
            await self.sleep(self._every.total_seconds())

    async def tell(self) -> None:
        """Once."""
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                await self._states.tell(self._worker, word(self._chains))
        except Exception as error:  # nothing that goes wrong here is worth ending the lanes of this process
            if not self._is_away:
                log.warning("states of providers are not told", error=type(error).__name__)
            self._is_away = True
        else:
            self._is_away = False


def word(chains: Iterable[HasStates]) -> Told:
    """What a worker says of its chains, as JSON has it."""
    return {str(chain.channel): chain.states() for chain in chains}


def merged(settings: Settings, told: Sequence[Told]) -> list[ProviderState]:
    """All providers by channel and place: those of these settings, then those that only workers have."""
    found = []
    for channel in Channel:
        chain = settings.providers(channel)
        others = sorted({name for said in told for name in said.get(channel, {})} - set(chain))
        weights = settings.weights(channel)
        for place, name in enumerate([*chain, *others], start=1):
            states = [said[channel][name] for said in told if name in said.get(channel, {})]
            found.append(
                ProviderState(
                    channel=channel,
                    provider=name,
                    place=place if name in chain else None,
                    weight=weights.get(name, 0.0) if weights else None,
                    **_worst(states),
                )
            )
    return found


def by_channel(states: Iterable[ProviderState]) -> dict[str, dict[str, str]]:
    """Only the words: channel, provider, state."""
    found: dict[str, dict[str, str]] = {}
    for each in states:
        found.setdefault(each.channel, {})[each.provider] = each.state
    return found


def _worst(states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The worst of what the workers see; of several the one that has lasted longest."""
    if not states:
        return {}
    conditions = [str(state.get("reason") or Condition.CLOSED) for state in states]
    worst = max(conditions, key=_badness)
    seen = [state for state, condition in zip(states, conditions, strict=True) if condition == worst]
    longest = min(seen, key=lambda state: str(state.get("since") or ""))
    shares = [float(state["share"]) for state in states if state.get("share") is not None]
    return {
        "state": worst,
        "detail": longest.get("detail"),
        "since": _moment(longest.get("since")),
        "until": min(filter(None, (_moment(state.get("until")) for state in seen)), default=None),
        "share": sum(shares) / len(shares) if shares else None,
        "workers": len(states),
        "workers_in_state": len(seen),
    }


def _moment(told: Any) -> datetime | None:
    return datetime.fromisoformat(told) if isinstance(told, str) else None


def _badness(condition: str) -> int:
    """What a newer worker may say is worse than what we know."""
    return _CONDITIONS.index(condition) if condition in _CONDITIONS else len(_CONDITIONS)
