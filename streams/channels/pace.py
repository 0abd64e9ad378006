"""What a channel lane asks of limits, and what it gets where there are none."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from models.enums import Channel, Priority


class Grant(NamedTuple):
    """So many calls may be made now; whoever wanted more asks again after `wait_seconds`."""

    granted: int
    wait_seconds: float = 0.0


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
        return Grant(wanted)

    async def give_back(self, channel: Channel, provider: str, count: int) -> None:
        """Nothing was taken."""

    async def hold(self, provider: str, seconds: float) -> None:
        """This process's own chain holds."""
