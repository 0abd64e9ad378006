"""What a channel lane asks of limits, and what it gets where there are none."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from models.enums import Channel, Priority
from streams.rate_limits import Grant


class Paces(Protocol):
    """The limits on channels and providers. Nothing here raises."""

    async def take(self, channel: Channel, provider: str, priority: Priority, wanted: int) -> Grant:
        """Tokens for calls."""

    async def give_back(self, channel: Channel, provider: str, count: int) -> None:
        """Tokens whose calls were not made."""

    async def hold(self, provider: str, seconds: float) -> None:
        """Nobody, in any process, calls this provider before: it asked to wait."""


class Unpaced:
    """No limits: whatever is wanted is granted."""

    async def take(self, channel: Channel, provider: str, priority: Priority, wanted: int) -> Grant:
        """All of it."""
        return Grant(wanted, 0.0)

    async def give_back(self, channel: Channel, provider: str, count: int) -> None:
        """Nothing was taken."""

    async def hold(self, provider: str, seconds: float) -> None:
        """This process's own chain holds."""


def told_to(limits: Paces) -> Callable[[str, float], None]:
    """Tells the limits of a provider that asked to wait, beside whatever else is going on."""
    telling: set[asyncio.Task[None]] = set()

    def tell(provider: str, seconds: float) -> None:
        task = asyncio.create_task(limits.hold(provider, seconds))
        telling.add(task)
        task.add_done_callback(telling.discard)

    return tell
