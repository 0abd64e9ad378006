"""Addresses that are not to be written to, and messages that came back, as values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from models.enums import Channel, SuppressionReason

#: The category that stands for all of them.
EVERYTHING = ""


class Source(StrEnum):
    """Where an entry of the lists comes from."""

    #: an operator or another service, by the API
    API = "api"
    #: one of many, by the API
    IMPORT = "import"
    #: the person, by the link in an e-mail
    LINK = "link"
    #: what a provider told afterwards
    PROVIDER = "provider"
    #: what a provider answered to a send
    SEND = "send"


class BounceKind(StrEnum):
    """Whether there is hope."""

    #: the address is dead
    HARD = "hard"
    #: it could not be reached this time: a full mailbox, a server that was away
    SOFT = "soft"


@dataclass(frozen=True, slots=True, kw_only=True)
class Suppression:
    """Why nothing of a category, or nothing at all, goes to an address.

    `address` is a normal one, as `NotificationRequest` and `ProviderEvent` hold it; the lists write it their own way.
    """

    channel: Channel
    address: str
    category: str = EVERYTHING
    reason: SuppressionReason
    created_at: datetime
    source: Source = Source.PROVIDER
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounce:
    """A message that came back from one address."""

    #: The vendor's event: a repeat of it changes nothing.
    event_id: str
    address: str
    channel: Channel
    is_permanent: bool
    reason: str | None
    category: str | None
    delivery_id: UUID | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTarget:
    """An attempt that a provider answered with `target_dead`: nobody is at this address, or they want nothing."""

    delivery_id: UUID
    generation: int
    attempt: int
    channel: Channel
    address: str
    category: str
    provider: str | None
    reason: str | None
    occurred_at: datetime
