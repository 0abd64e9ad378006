"""What providers tell us later: the values of `provider.events`, the same for all vendors."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

import orjson
from pydantic import Field

from models.enums import Channel, EventKind
from models.json_values import JsonObject, Maybe, Text
from models.requests import Contract, Instant

Word = Annotated[Text, Field(min_length=1, max_length=500)]


class ProviderEvent(Contract):
    """One thing that happened to one message and recipient, as a vendor tells it.

    It is matched to its delivery by `delivery_id`, else by `notification_id` and `channel`, else by
    `provider_message_id`.
    """

    #: Of the vendor's own id for it, so that a repeat is known: `<provider>:<id>`.
    event_id: Word
    provider: Word
    channel: Channel
    kind: EventKind
    occurred_at: Instant
    delivery_id: Maybe[UUID] = None
    notification_id: Maybe[UUID] = None
    generation: Maybe[Annotated[int, Field(ge=0, le=32767)]] = None
    attempt: Maybe[Annotated[int, Field(ge=1, le=32767)]] = None
    provider_message_id: Maybe[Word] = None
    #: Whom it is about; for suppression only, and shown to nobody.
    address: Maybe[Annotated[Text, Field(max_length=320)]] = None
    #: For `unsubscribed` and `resubscribed`: whether of everything, or of the message's category.
    is_of_all: bool = False
    #: For `bounced`: whether the address is dead, or only could not be reached now.
    is_permanent: bool = False
    #: A word from the vendor's vocabulary, as in `5.1.1` or `30005`; no address, no content.
    reason: Maybe[Word] = None
    #: What else the vendor said, without content and addresses.
    raw: JsonObject = Field(default_factory=dict)

    @property
    def key(self) -> bytes:
        """The partition key of its record: what happened to one delivery stays in order."""
        return str(self.delivery_id or self.provider_message_id or self.event_id).encode()

    @property
    def names_message(self) -> bool:
        """Whether it may be matched; an SMS with STOP is about an address alone."""
        return (self.delivery_id or self.notification_id or self.provider_message_id) is not None

    def record_value(self) -> bytes:
        """The value of its Kafka record."""
        return orjson.dumps(self.model_dump(mode="python", exclude_defaults=True))
