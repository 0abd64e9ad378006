"""One look at the providers: what the workers told Redis, and what is to be said about it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.ids import rfc3339
from models.settings import Settings
from streams.channels.health import Condition
from streams.provider_states import UNKNOWN, ProviderState, ProviderStates, merged

_PATIENCE_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Look:
    """The providers by channel and place in their chain, and notes on them."""

    states: tuple[ProviderState, ...]
    notes: tuple[str, ...]

    def items(self) -> list[dict[str, Any]]:
        """As `GET /api/v1/providers` shows them, without their limits."""
        return [_item(state) for state in self.states]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"items": self.items(), "notes": list(self.notes)}


async def look(settings: Settings) -> Look:
    """How the providers are. Without Redis nothing is known of them, and a note says so."""
    redis: Redis = Redis.from_url(settings.redis_url, socket_connect_timeout=_PATIENCE_SECONDS)
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            told = await ProviderStates(redis, key_prefix=settings.redis_key_prefix).read()
    except (RedisError, OSError, TimeoutError):
        return Look(tuple(merged(settings, [])), ("Redis at REDIS_URL does not answer: nothing is known of them",))
    finally:
        await redis.aclose()
    states = tuple(merged(settings, told))
    return Look(states, tuple(_remarks(states, is_anybody_there=bool(told))))


def _item(state: ProviderState) -> dict[str, Any]:
    times = {name: rfc3339(at) for name in ("since", "until") if (at := getattr(state, name)) is not None}
    return {name: value for name, value in (asdict(state) | times).items() if value is not None}


def _remarks(states: Sequence[ProviderState], *, is_anybody_there: bool) -> list[str]:
    """What somebody should do something about."""
    if not is_anybody_there:
        return ["no worker tells how they are: is one running?"]
    broken = [state.provider for state in states if state.state == Condition.BROKEN]
    unknown = [state.provider for state in states if state.state == UNKNOWN]
    foreign = [state.provider for state in states if state.place is None]
    found = []
    if broken:
        found.append(f"{', '.join(broken)}: the account is refused; `comms providers check NAME` tells more")
    if unknown:
        found.append(f"{', '.join(unknown)}: in the chains of these settings, but no worker has it")
    if foreign:
        found.append(f"{', '.join(foreign)}: workers have it, but it is not in the chains of these settings")
    return found
