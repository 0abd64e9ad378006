"""Bodies that come in besides the notification request, as strict as that. Those of answers are in `views`."""

from __future__ import annotations

from typing import Annotated, Literal, Self
from zoneinfo import available_timezones

from pydantic import AfterValidator, Field, model_validator

from models.addresses import EmailAddress, PhoneNumber
from models.enums import Channel, Priority
from models.json_values import JsonObject, Maybe, Text
from models.limits import Scope
from models.requests import Contract, Key, Locale, Timezone
from streams.domain.push import DATA_PREFIX

_ZONES = frozenset(available_timezones())


def _known_zone(value: str) -> str:
    if _ZONES and value not in _ZONES:
        raise ValueError("must be a time zone of the IANA database, as in Europe/Berlin")
    return value


Zone = Annotated[Timezone, AfterValidator(_known_zone)]
#: Source of one part; the template rules bound each part on their own.
Source = Annotated[Text, Field(max_length=262_144)]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$")]
DataName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_.-]{0,63}$")]
ClockTime = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


# -- templates


class _Parts(Contract):
    """The parts of one channel, as sources."""

    def parts(self) -> dict[str, str]:
        """The parts that are there, by name."""
        return {name: value for name, value in self if value is not None}


class EmailParts(_Parts):
    """`html`, `text`, or both; `mjml` may stand in place of `html`."""

    subject: Source
    html: Annotated[Maybe[Source], Field(description="The rules of its <style> are written into the tags.")] = None
    text: Annotated[Maybe[Source], Field(description="Absent: made from the html.")] = None
    mjml: Annotated[Maybe[Source], Field(description="MJML, in place of `html`; becomes html when used.")] = None


class SmsParts(_Parts):
    """An SMS is its text."""

    text: Source


class PushParts(_Parts):
    """What a device shows."""

    title: Source
    body: Source
    action_url: Maybe[Source] = None
    image_url: Maybe[Source] = None
    data: Annotated[
        Maybe[Annotated[dict[DataName, Source], Field(max_length=50)]],
        Field(description="For the app, beside `options.push.data` of a request, which goes before it."),
    ] = None

    def parts(self) -> dict[str, str]:
        """The values of `data` are parts too: `data.order_id`."""
        shown = {name: value for name, value in self if isinstance(value, str)}
        return shown | {f"{DATA_PREFIX}{name}": value for name, value in (self.data or {}).items()}


class InAppParts(_Parts):
    """What the inbox shows."""

    title: Source
    body: Source
    action_url: Maybe[Source] = None
    image_url: Maybe[Source] = None


class TemplateChannels(Contract):
    """One entry for each channel that the template serves."""

    email: Maybe[EmailParts] = None
    sms: Maybe[SmsParts] = None
    push: Maybe[PushParts] = None
    in_app: Maybe[InAppParts] = None

    @model_validator(mode="after")
    def _is_something(self) -> Self:
        if not self.parts():
            raise ValueError("at least one channel is needed")
        return self

    def parts(self) -> dict[Channel, dict[str, str]]:
        """The parts of each channel that is there."""
        return {Channel(name): one.parts() for name, one in self if one is not None}


class TemplateBody(Contract):
    """A template's next version; the key is in the path."""

    key: Annotated[Maybe[Key], Field(description="As in the path, or left out.")] = None
    category: Maybe[Key] = None
    locale: Annotated[Maybe[Locale], Field(description="Absent: the service's default locale.")] = None
    variables: Annotated[
        Maybe[Annotated[tuple[VariableName, ...], Field(max_length=200)]],
        Field(description="Names that the data must have. Absent: those that the parts print."),
    ] = None
    channels: TemplateChannels
    draft: Annotated[bool, Field(description="Keep it unpublished for now.")] = False


class NewTemplateBody(TemplateBody):
    """A new template."""

    key: Key


class PublishBody(Contract):
    """Which version to put into use."""

    version: Annotated[
        Maybe[Annotated[int, Field(ge=1, le=2_000_000_000)]], Field(description="Absent: the newest.")
    ] = None
    locale: Maybe[Locale] = None


class PreviewBody(Contract):
    """What to render a template with."""

    data: JsonObject = Field(default_factory=dict)
    channels: Annotated[Maybe[TemplateChannels], Field(description="Unsaved parts to render instead.")] = None
    locale: Maybe[Locale] = None
    version: Maybe[Annotated[int, Field(ge=1, le=2_000_000_000)]] = None


class UnsavedPreviewBody(Contract):
    """Parts that are not saved, and what to render them with."""

    channels: TemplateChannels
    data: JsonObject = Field(default_factory=dict)


# -- people


class ContactBody(Contract):
    """A person's whole contact: what is left out is removed."""

    email: Maybe[EmailAddress] = None
    phone: Maybe[PhoneNumber] = None
    name: Maybe[Annotated[Text, Field(max_length=200)]] = None
    locale: Maybe[Locale] = None
    timezone: Maybe[Zone] = None


class DeviceBody(Contract):
    """A push token and the platform that gave it out."""

    platform: Literal["fcm", "apns"]
    token: Annotated[str, Field(pattern=r"^[!-~]{1,2000}$")]
    kind: Annotated[
        Maybe[Annotated[Text, Field(min_length=1, max_length=64)]],
        Field(description="What the token is, in the vendor's words."),
    ] = None


class QuietHours(Contract):
    """When the person wants silence, by the clock of their time zone; may run over midnight."""

    start: ClockTime
    end: ClockTime
    timezone: Zone


class PreferencesBody(Contract):
    """All that a person chose: what is left out is the default again."""

    channels: dict[Channel, bool] = Field(default_factory=dict)
    categories: Annotated[dict[Key, dict[Channel, bool]], Field(max_length=500)] = Field(default_factory=dict)
    quiet_hours: Maybe[QuietHours] = None


# -- categories


class CategoryBody(Contract):
    """What hangs on a category; the key is in the path."""

    key: Annotated[Maybe[Key], Field(description="As in the path, or left out.")] = None
    transactional: Annotated[bool, Field(description="Opt-outs don't hold for it.")] = False
    default_channels: Annotated[
        tuple[Channel, ...],
        Field(max_length=4, description="Used by requests that name no channel."),
    ] = ()
    priority: Annotated[Maybe[Priority], Field(description="Used by requests that name none.")] = None
    quiet_hours: Literal["defer", "drop", "ignore"] = "ignore"

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        if len(set(self.default_channels)) != len(self.default_channels):
            raise ValueError("default_channels: must not name a channel twice")
        return self


class NewCategoryBody(CategoryBody):
    """A new category."""

    key: Key


# -- limits

MAX_PERMITS = 1_000_000
#: A month: what is counted over a longer time is no pace.
MAX_PER_SECONDS = 31 * 86_400


class RateLimitBody(Contract):
    """So many permits in so many seconds; scope and target are in the path."""

    scope: Annotated[Maybe[Scope], Field(description="As in the path, or left out.")] = None
    target: Annotated[Maybe[Text], Field(description="As in the path, or left out.")] = None
    permits: Annotated[int, Field(ge=1, le=MAX_PERMITS)]
    per_seconds: Annotated[int, Field(ge=1, le=MAX_PER_SECONDS)]
    burst: Annotated[
        Maybe[Annotated[int, Field(ge=1, le=MAX_PERMITS)]],
        Field(description="How many may pass at once after a quiet time. Absent: as many as `permits`."),
    ] = None
