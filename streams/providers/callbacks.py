"""What vendors tell us by HTTP: who may say it, and what it means."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import ClassVar

from models.provider_events import ProviderEvent


class NotVerified(Exception):
    """A callback that this vendor did not sign, or not for us. `reason` is safe to show."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Stale(NotVerified):
    """Signed, but long ago, or for the future."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A request as it came, before anything of it is believed."""

    #: The addresses that it may have been sent to, as the outside sees them, query included.
    urls: Sequence[str]
    #: By name in lower case.
    headers: Mapping[str, str]
    body: bytes
    received_at: datetime


class CallbackSource(ABC):
    """One vendor's callbacks. Opened and closed with the API; safe for many at a time."""

    #: The last part of its path: `/api/v1/webhooks/<name>`.
    name: ClassVar[str]

    async def open(self) -> None:  # noqa: B027  most need nothing
        """Prepares what is needed."""

    async def close(self) -> None:  # noqa: B027
        """Lets go of it."""

    @abstractmethod
    async def verify(self, callback: Callback) -> None:
        """Returns for what the vendor signed for us, lately.

        Raises:
            NotVerified: for all else. No request goes to an address that the callback names.
            Unavailable: when it can't be told now, as a certificate could not be fetched; the vendor will repeat it.
        """

    @abstractmethod
    async def parse_events(self, callback: Callback) -> list[ProviderEvent]:
        """What a verified callback tells, in its order; empty where it tells nothing that matters.

        Raises:
            Refused: naming the field, when it is not what the vendor sends.
        """
