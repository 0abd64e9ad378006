"""A notification request: HTTP body and Kafka value are the same (CONTRACT section 5).

Validation is strict: nothing is coerced, null is not "absent", unknown fields are ignored. `parse` is the one door for
bytes from outside; whatever passes it can be stored, rendered and serialised again.
"""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self, TypeVar
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from models.addresses import EmailAddress, PhoneNumber
from models.enums import Channel, Priority
from models.errors import Refused
from models.json_values import JsonObject, Maybe, Text

MAX_REQUEST_BYTES = 512 * 1024
MAX_SECONDS = 32 * 86400
MAX_USER_ID = 255

#: https://www.rfc-editor.org/rfc/rfc3339#section-5.6
_RFC3339 = re.compile(r"^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$")

#: What may be told of a key: no address, no control character, nothing long.
_NAME = re.compile(r"[\w.\[\] -]{1,64}")

#: Which request it is and the lane it takes, not what it asks for.
_NOT_ASKED = {"id", "idempotency_key", "priority"}

M = TypeVar("M", bound=BaseModel)


def _rfc3339(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        if not _RFC3339.match(value):
            raise ValueError
        return datetime.fromisoformat(value)
    except ValueError:
        raise ValueError("must be an RFC 3339 time with an offset, as in 2026-01-01T12:00:00Z") from None


def _utc(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9998:
        raise ValueError("must lie between the years 1970 and 9998")
    return value.astimezone(UTC)


#: An RFC 3339 time with an offset, kept in UTC.
Instant = Annotated[datetime, BeforeValidator(_rfc3339), AfterValidator(_utc)]
UserId = Annotated[Text, Field(min_length=1, max_length=MAX_USER_ID)]
#: The key of a template, a category and the like.
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Locale = Annotated[str, Field(pattern=r"^[A-Za-z]{2,3}([_-][A-Za-z0-9]{2,8}){0,3}$")]
Timezone = Annotated[Text, Field(min_length=1, max_length=64)]
Url = Annotated[Text, Field(max_length=2048, pattern=r"^https?://[^\s<>\"]+$")]
ShortText = Annotated[Text, Field(max_length=1000)]


class Contract(BaseModel):
    """Base of all messages from outside: strict types, unknown fields ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, allow_inf_nan=False)


class Device(Contract):
    """Where a push message goes."""

    platform: Literal["fcm", "apns"]
    #: No vendor's is longer than some hundred; more would not fit the index.
    token: Annotated[str, Field(pattern=r"^[!-~]{1,2000}$")]
    #: What the token is, in the vendor's words: FCM tells a Firebase installation's id (`fid`) from a token.
    kind: Maybe[Annotated[Text, Field(min_length=1, max_length=64)]] = None


class Recipient(Contract):
    """Addresses that override the stored contact."""

    email: Maybe[EmailAddress] = None
    phone: Maybe[PhoneNumber] = None
    device_tokens: Annotated[tuple[Device, ...], Field(fail_fast=True, max_length=50)] = ()
    locale: Maybe[Locale] = None
    timezone: Maybe[Timezone] = None


class Content(Contract):
    """Inline content, rendered with the request's `data` by the same sandbox as stored templates."""

    subject: Maybe[Text] = None
    text: Maybe[Text] = None
    html: Maybe[Text] = None
    title: Maybe[Text] = None
    body: Maybe[Text] = None
    action_url: Maybe[Text] = None
    image_url: Maybe[Text] = None

    def parts(self) -> dict[str, str]:
        """The parts that are there, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class Attachment(Contract):
    """A file by reference: one of `url` and `attachment_id`."""

    url: Maybe[Url] = None
    attachment_id: Maybe[UUID] = None
    filename: Annotated[Text, Field(min_length=1, max_length=255)]


class EmailOptions(Contract):
    """What a sender may choose for an e-mail."""

    from_: Maybe[Annotated[Text, Field(max_length=320)]] = Field(default=None, alias="from")
    reply_to: Maybe[EmailAddress] = None
    cc: Annotated[tuple[EmailAddress, ...], Field(fail_fast=True, max_length=20)] = ()
    headers: Annotated[dict[ShortText, ShortText], Field(max_length=20)] = Field(default_factory=dict)
    tags: Annotated[tuple[ShortText, ...], Field(fail_fast=True, max_length=10)] = ()
    attachments: Annotated[tuple[Attachment, ...], Field(fail_fast=True, max_length=10)] = ()


class PushOptions(Contract):
    """What a sender may choose for a push message."""

    collapse_key: Maybe[Annotated[Text, Field(max_length=64)]] = None
    ttl_seconds: Maybe[Annotated[int, Field(ge=0, le=28 * 86400)]] = None
    badge: Maybe[Annotated[int, Field(ge=0, le=100_000)]] = None
    data: Maybe[Annotated[dict[ShortText, Text], Field(max_length=50)]] = None


class SmsOptions(Contract):
    """What a sender may choose for an SMS."""

    sender: Maybe[Annotated[str, Field(pattern=r"^\+?[A-Za-z0-9 ]{1,20}$")]] = None


class Options(Contract):
    """Wishes per channel; what a provider can't do is refused, never dropped."""

    email: Maybe[EmailOptions] = None
    push: Maybe[PushOptions] = None
    sms: Maybe[SmsOptions] = None
    provider: Maybe[JsonObject] = None


class NotificationRequest(Contract):
    """One person to be told one thing, by one or several channels."""

    id: Maybe[UUID] = None
    idempotency_key: Maybe[Annotated[Text, Field(min_length=1, max_length=255)]] = None
    user_id: UserId
    channel: Maybe[Channel] = None
    channels: Maybe[Annotated[tuple[Channel, ...], Field(fail_fast=True, min_length=1, max_length=4)]] = None
    strategy: Literal["all", "fallback"] = "all"
    fallback_after_seconds: Maybe[Annotated[int, Field(ge=0, le=MAX_SECONDS)]] = None
    template_id: Maybe[Key] = None
    content: Maybe[Content] = None
    data: JsonObject = Field(default_factory=dict)
    category: Key = "general"
    priority: Maybe[Priority] = None
    recipient: Recipient = Recipient()
    options: Options = Options()
    send_at: Maybe[Instant] = None
    expires_at: Maybe[Instant] = None
    digest_key: Maybe[Annotated[Text, Field(max_length=255)]] = None
    digest_window_seconds: Maybe[Annotated[int, Field(ge=1, le=MAX_SECONDS)]] = None
    metadata: Annotated[dict[ShortText, ShortText], Field(max_length=50)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _is_one_thing(self) -> Self:
        if self.channel is not None and self.channels is not None:
            raise ValueError("channels: send either channel or channels, not both")
        if self.channels is not None and len(set(self.channels)) != len(self.channels):
            raise ValueError("channels: must not name a channel twice")
        if (self.template_id is None) == (self.content is None):
            raise ValueError("content: exactly one of template_id and content is needed")
        if self.content is not None and not self.content.model_fields_set and not self._has_push_data:
            raise ValueError("content: must have at least one part")
        if self.strategy == "fallback":
            raise ValueError("strategy: 'fallback' is not offered by this version; use 'all'")
        if self.digest_key is not None:
            raise ValueError("digest_key: digests are not offered by this version")
        return self

    @property
    def wanted_channels(self) -> tuple[Channel, ...]:
        """The channels that the request names; empty means the category's default ones."""
        return (self.channel,) if self.channel is not None else self.channels or ()

    @property
    def _has_push_data(self) -> bool:
        return self.options.push is not None and bool(self.options.push.data)

    def fingerprint(self) -> bytes:
        """SHA-256 of what is asked for, the same over HTTP and Kafka; ids and the choice of lane don't count."""
        asked = _sent(self)
        for name in _NOT_ASKED:
            asked.pop(name, None)
        return hashlib.sha256(orjson.dumps(asked, default=_sent, option=orjson.OPT_SORT_KEYS)).digest()

    def record_value(self, notification_id: UUID) -> bytes:
        """The value of its Kafka record: the same request under its final id."""
        asked = self.model_dump(mode="python", exclude=_NOT_ASKED, exclude_unset=True, by_alias=True)
        return orjson.dumps({"id": notification_id, **asked})


def _sent(part: Contract) -> dict[str, Any]:
    """What `model_dump` says of the fields that were sent, one level deep and in no order: in half its time."""
    held = vars(part)
    sent = {name: held[name] for name in part.model_fields_set}
    if "from_" in sent:
        sent["from"] = sent.pop("from_")
    return sent


def parse(model: type[M], raw: bytes) -> M:
    """Decodes and validates bytes from outside.

    Raises:
        Refused: naming the first field that is wrong; the text never holds the value.
    """
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        raise refusals(error)[0] from None


def refusals(error: ValidationError) -> list[Refused]:
    """All that is wrong, as (field, reason) without values."""
    return [_refusal(detail) for detail in error.errors(include_input=False, include_url=False)]


def _refusal(detail: Any) -> Refused:
    field = ".".join(_shown(part) for part in detail["loc"])
    if detail["type"] == "json_invalid":
        return Refused("body", "is not valid JSON")
    if detail["type"] == "value_error":
        reason = str(detail["ctx"]["error"])
        if not field and ": " in reason:
            field, reason = reason.split(": ", 1)
        return Refused(field or "body", reason)
    return Refused(field or "body", detail["msg"])


def _shown(part: str | int) -> str:
    """A step of a field's path. It may be a key that the sender chose: shown only where it reads like a name."""
    text = str(part)
    return text if _NAME.fullmatch(text) else "?"
