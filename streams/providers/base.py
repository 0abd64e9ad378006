"""What every provider offers: `send` a rendered delivery, say its `get_status`, and nothing of retries.

A provider answers with one of five outcomes (and `ambiguous`), decided by a table per vendor. It never raises for what
the vendor said; whatever it does raise is taken for `retry` by the lane. It never retries by itself: the delay topics
own retry. `reason` and `detail` are words from the vendor's vocabulary: no address, content, token or key.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import ClassVar, NamedTuple

from models.changes import DeadDevice
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status


class UnsupportedFeature(Exception):
    """An option that this vendor can't do. `field` is its dotted place in the request."""

    def __init__(self, field: str, provider: str) -> None:
        super().__init__(f"{field}: not offered by {provider}")
        self.field = field
        self.provider = provider


class Reach(StrEnum):
    """How far a call got: what it says of the provider, where the outcome speaks of the message."""

    #: The vendor answered, whatever it said.
    ANSWERED = "answered"
    #: No answer, or one that says that nobody is served now: refused connections, timeouts, 429, 503, 421.
    AWAY = "away"
    #: Decided here, before the vendor was asked: it proves nothing of it.
    NOT_ASKED = "not_asked"
    #: Broke off in our own code: nobody knows how far it got.
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class FanOut:
    """How a push message fared on its devices, where it went to several or one of them is dead."""

    #: The devices that the next attempt is for, one bit for each place in `Delivery.devices`.
    remaining: int
    #: How many took it.
    reached: int
    #: Those to forget.
    dead: tuple[DeadDevice, ...] = ()
    #: False: what remains could not be asked at all, so that no try is burnt.
    is_try: bool = True


class DeliveryResult(NamedTuple):
    """How one call to a provider ended."""

    outcome: Outcome
    provider: str
    #: The vendor's own id of the message, where it gave one.
    provider_message_id: str | None = None
    #: A short, safe word for people and metrics, as in `rate_limited` or `550 5.1.1`.
    reason: str | None = None
    #: The vendor asked to wait at least this long.
    retry_after: timedelta | None = None
    #: What the call says of the provider's health.
    reach: Reach = Reach.ANSWERED
    #: For `target_dead`: since when, by the vendor's word. A device registered later is alive.
    dead_since: datetime | None = None
    #: Of a push message, where one result doesn't say it all.
    fan_out: FanOut | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryStatus:
    """What a vendor says of a message it took earlier; `status` is None where it can't say."""

    status: Status | None
    detail: str | None = None


class NotificationProvider(ABC):
    """One vendor on one channel. Opened and closed with the lanes; safe for many concurrent sends."""

    name: ClassVar[str]
    channel: ClassVar[Channel]

    #: How many calls the provider takes at once, over all lanes of the process. Lanes wait for a free one outside the
    #: call's timeout, so that waiting is never taken for a slow provider.
    most_calls: int | None = None

    async def open(self) -> None:  # noqa: B027  most providers connect on first use
        """Prepares connections. Must not fail because the vendor is away."""

    async def close(self) -> None:  # noqa: B027
        """Lets go of all connections."""

    @abstractmethod
    async def send(self, delivery: Delivery) -> DeliveryResult:
        """Makes one call. The delivery id travels wherever the vendor has a place for it.

        Raises:
            UnsupportedFeature: when the delivery asks for an option this vendor can't do; nothing was sent.
        """

    async def get_status(self, message_id: str) -> DeliveryStatus:
        """The vendor's word on a message; vendors without such a call leave it at "unknown"."""
        return DeliveryStatus(status=None)
