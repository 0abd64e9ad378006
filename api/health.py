"""Whether the servers this service needs answer, and what is missing where they don't."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.settings import Settings
from streams.provider_states import ProviderStates, by_channel, merged
from streams.readiness import lacks_tables, lacks_topics

PROBE_SECONDS = 2.0
#: Anybody may ask, so the servers are asked at most this often.
_KEEP_SECONDS = 1.0
#: Without these nothing is taken in; without Redis only what is live suffers.
_NEEDED = ("kafka", "postgres")

#: Says what is missing; None when nothing is.
Probe = Callable[[], Awaitable[str | None]]
#: By channel, each provider's state.
Providers = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class State:
    """What a server said when it was asked last."""

    missing: Mapping[str, str | None]
    #: For people: a provider in trouble is no reason to send requests elsewhere.
    providers: Providers = field(default_factory=dict)

    @property
    def is_ready(self) -> bool:
        """Whether all that is needed is there."""
        return all(self.missing.get(name) is None for name in _NEEDED)


class Probes:
    """Asks all servers at once, each for at most PROBE_SECONDS."""

    def __init__(
        self, probes: Mapping[str, Probe], *, providers: Callable[[], Awaitable[Providers]] | None = None
    ) -> None:
        self._probes = probes
        self._providers = providers
        self._asked: asyncio.Task[State] | None = None
        self._asked_at = -_KEEP_SECONDS

    async def state(self) -> State:
        """How things are, no older than a second."""
        if self._asked is None or (self._asked.done() and time.monotonic() - self._asked_at > _KEEP_SECONDS):
            self._asked_at = time.monotonic()
            self._asked = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asked)

    async def _ask(self) -> State:
        providers = asyncio.create_task(self._look())
        answers = await asyncio.gather(*(_bounded(probe) for probe in self._probes.values()))
        return State(dict(zip(self._probes, answers, strict=True)), await providers)

    async def _look(self) -> Providers:
        return {} if self._providers is None else await self._providers()


async def _bounded(probe: Probe) -> str | None:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await probe()
    except TimeoutError:
        return "does not answer in time"
    except Exception:
        return "does not answer"


def probes(settings: Settings, *, engine: AsyncEngine, redis: Redis, states: ProviderStates) -> Probes:
    """The probes of a running service."""

    async def kafka() -> str | None:
        return "topics are missing: run `comms migrate`" if await lacks_topics(settings) else None

    async def postgres() -> str | None:
        return "tables are missing: run `comms migrate`" if await lacks_tables(engine) else None

    async def valkey() -> str | None:
        await redis.ping()
        return None

    async def providers() -> Providers:
        return by_channel(merged(settings, await states.read_or_nothing()))

    return Probes({"kafka": kafka, "postgres": postgres, "redis": valkey}, providers=providers)
