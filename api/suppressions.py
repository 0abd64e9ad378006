"""Bodies about suppressions and bounces, coming in and going out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from api.errors import FieldError, invalid
from api.responses import without_nulls
from models.addresses import canonical
from models.enums import Channel, SuppressionReason
from models.json_values import Maybe, Text
from models.repositories.bounces import StoredBounce
from models.repositories.suppressions import StoredSuppression
from models.requests import Contract, Instant, Key
from models.suppressions import EVERYTHING, BounceKind, Source, Suppression

#: In a filter: what holds for all categories.
ANY_CATEGORY = "*"
Note = Annotated[Text, Field(max_length=500)]
Reason = Annotated[Text, Field(min_length=1, max_length=500)]


class SuppressionBody(Contract):
    """An address that is not to be written to, and why."""

    # A slip of the pen in a name would suppress more than was meant.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    address: Annotated[Text, Field(max_length=320, description="An e-mail address, or a phone number in E.164.")]
    channel: Annotated[Maybe[Channel], Field(description="`email` or `sms`. Absent: by the look of the address.")] = (
        None
    )
    category: Annotated[Maybe[Key], Field(description="Absent: of all categories.")] = None
    reason: Annotated[
        SuppressionReason,
        Field(description="`unsubscribed` exempts transactional categories, the others hold for all."),
    ] = SuppressionReason.MANUAL
    note: Maybe[Note] = None
    created_at: Annotated[Maybe[Instant], Field(description="Absent: now.")] = None

    @model_validator(mode="after")
    def _is_an_address(self) -> Self:
        try:
            canonical(self.told_channel, self.address)
        except ValueError as error:
            raise ValueError(f"address: {error}") from None
        return self

    @property
    def told_channel(self) -> Channel:
        """The channel that is named, or that such an address belongs to."""
        return self.channel or channel_of(self.address)

    def suppression(self, *, source: Source, now: datetime) -> Suppression:
        """The entry; nothing was suppressed in the future."""
        return Suppression(
            channel=self.told_channel,
            address=canonical(self.told_channel, self.address),
            category=self.category or EVERYTHING,
            reason=self.reason,
            created_at=min(now, self.created_at or now),
            source=source,
            note=self.note,
        )


def channel_of(address: str) -> Channel:
    """What kind of address it looks like."""
    return Channel.EMAIL if "@" in address else Channel.SMS


def listed(channel: Channel | None, address: str | None) -> str | None:
    """The address of a filter as the lists hold it.

    Raises:
        Problem: 422 when it is no address.
    """
    try:
        return None if address is None else canonical(channel or channel_of(address), address)
    except ValueError as error:
        raise invalid([FieldError("address", str(error))]) from None


class SuppressionView(BaseModel):
    """An address that is not to be written to."""

    suppression_id: UUID
    channel: Channel
    address: str
    category: str | None = Field(default=None, description="Absent: all categories.")
    reason: SuppressionReason
    source: str = Field(description="api, import, link, provider, send, or unknown for entries from before.")
    note: str | None = None
    created_at: datetime


class RefusedLine(BaseModel):
    """A line that was left out."""

    index: int
    reason: str


class ImportView(BaseModel):
    """What became of an import."""

    added: int
    known: int
    rejected: int
    errors: list[RefusedLine] = Field(description="The first 1,000; `index` counts records from 0.")


class BounceView(BaseModel):
    """A message that came back."""

    bounce_id: UUID
    channel: Channel
    address: str
    kind: BounceKind
    reason: str | None = None
    category: str | None = None
    delivery_id: UUID | None = None
    occurred_at: datetime


class BounceRateView(BaseModel):
    """How much of a category's e-mail came back."""

    category: str
    sent: int
    bounced: int = Field(description="For good.")
    soft: int = Field(description="For now.")
    rate: float = Field(description="`bounced` of `sent`, 0 to 1.")
    paused: bool = Field(description="Whether its bulk is held back.")


class ResumeBody(Contract):
    """Why a category's bulk may go on."""

    reason: Reason


class ResumeView(BaseModel):
    """A category whose bulk goes out."""

    category: str
    resumed: bool = Field(description="False: it was not held back.")


def suppression_view(entry: StoredSuppression) -> dict[str, Any]:
    """An entry as it is shown."""
    return without_nulls(
        {
            "suppression_id": entry.id,
            "channel": entry.channel,
            "address": entry.address,
            "category": entry.category or None,
            "reason": entry.reason,
            "source": entry.source,
            "note": entry.note,
            "created_at": entry.created_at,
        }
    )


def bounce_view(bounce: StoredBounce) -> dict[str, Any]:
    """A bounce as it is shown."""
    return without_nulls(
        {
            "bounce_id": bounce.id,
            "channel": bounce.channel,
            "address": bounce.address,
            "kind": bounce.kind,
            "reason": bounce.reason,
            "category": bounce.category,
            "delivery_id": bounce.delivery_id,
            "occurred_at": bounce.occurred_at,
        }
    )
