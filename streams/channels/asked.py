"""What a channel lane asks of its providers, be they one chain or several."""

from __future__ import annotations

from typing import Any, Protocol

from models.deliveries import Delivery
from models.enums import Channel, Priority
from streams.channels.chain import Hold, TakeToken, Turn
from streams.providers.base import DeliveryResult


class Calls(Protocol):
    """`streams.channels.chain` says what each of them means."""

    channel: Channel

    @property
    def call_slots(self) -> int:
        """How many calls of a lane may be in doubt at a time."""

    def pick(self, wanted: int, priority: Priority = Priority.NORMAL) -> Turn | Hold:
        """Who takes calls now."""

    def give_back(self, turn: Turn, unused: int) -> None:
        """Calls of a turn that will not be made."""

    async def wait(self, until: float) -> None:
        """Returns then, or earlier when a state changes."""

    def hold(self, name: str, seconds: float) -> None:
        """A provider asked another process to wait."""

    async def call(
        self, turn: Turn, delivery: Delivery, *, seconds_left: float, take: TakeToken | None = None
    ) -> DeliveryResult:
        """Makes the call. Never raises."""

    def states(self) -> dict[str, dict[str, Any]]:
        """Each provider by name."""
