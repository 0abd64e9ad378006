"""One rendered delivery: the value of `notification.send.{channel}.{priority}`. Internal; only lanes write it."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Self
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field

from models.enums import Channel
from models.requests import Device, NotificationRequest, Options

#: Of requests that wish nothing: the very same object, so that no look into it is needed to see that.
_NO_OPTIONS: Options = NotificationRequest.model_fields["options"].default


class Delivery(BaseModel):
    """A notification on one channel, rendered and addressed, and which attempt comes next."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)

    delivery_id: UUID
    notification_id: UUID
    #: 0 at first; each replay from the dead letters adds one.
    generation: int = Field(default=0, ge=0)
    #: Number of the attempt to make, counted from 1 in each generation; every provider call has one of its own.
    attempt: int = Field(default=1, ge=1)
    #: Attempts that counted towards the channel's maximum so far. A broken provider burns none.
    tries: int = Field(default=0, ge=0)
    #: Earlier attempts whose outcome nobody knows.
    ambiguous: int = Field(default=0, ge=0)
    user_id: str
    channel: Channel
    category: str
    #: Where it goes: an e-mail address, a phone number, devices, or nothing for in-app.
    to: str | None = None
    devices: tuple[Device, ...] = ()
    #: Devices that took it in earlier attempts; `devices` are those that are left.
    reached: int = Field(default=0, ge=0)
    #: Rendered parts by name, as the channel has them (`subject`, `text`, `html`, `title`, …).
    content: dict[str, str]
    options: Options = _NO_OPTIONS
    metadata: dict[str, str] = Field(default_factory=dict)
    #: Extra facts a provider may need (locale for text direction and sender choice).
    locale: str | None = None
    #: Where one click ends mail of this kind (RFC 8058); None where nothing is to be ended.
    unsubscribe_url: str | None = None
    #: When the service took the request in.
    created_at: datetime
    expires_at: datetime | None = None

    def record_value(self) -> bytes:
        """The value of its Kafka record: all that a reader would not take for granted."""
        told = dict(vars(self))
        for name, granted in _GRANTED.items():
            if (value := told[name]) is granted or value == granted:
                del told[name]
        return orjson.dumps(told, default=_dumped)

    def next_attempt(self, *, tries: int, ambiguous: int) -> Self:
        """The same delivery with the attempt after this one."""
        return self.model_copy(update={"attempt": self.attempt + 1, "tries": tries, "ambiguous": ambiguous})

    def next_devices(self, *, remaining: int, reached: int) -> Self:
        """The same for the devices of the bits of `remaining`, after `reached` more took it."""
        left = tuple(device for place, device in enumerate(self.devices) if remaining >> place & 1)
        return self.model_copy(update={"devices": left, "reached": self.reached + reached})


#: What a reader takes a field for that is left out.
_GRANTED: dict[str, Any] = {
    name: field.get_default(call_default_factory=True)
    for name, field in Delivery.model_fields.items()
    if not field.is_required()
}
_GRANTED["options"] = _NO_OPTIONS  # itself, not a copy


def _dumped(part: BaseModel) -> dict[str, Any]:
    """Options and devices, as what holds them is written."""
    return part.model_dump(mode="python", exclude_defaults=True, by_alias=True)
