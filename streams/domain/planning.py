"""What becomes of a request, channel by channel: rendered and addressed, suppressed, or failed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from models.addresses import listed_as
from models.audience import Category, Person, Template
from models.deliveries import Delivery
from models.enums import Channel, Status, SuppressionReason
from models.errors import Refused
from models.ids import delivery_id
from models.requests import Device, NotificationRequest
from streams.domain import push
from streams.domain.mime import check_email_options
from streams.domain.segments import MAX_SEGMENTS, segments
from streams.domain.template_variables import completed
from streams.domain.templates import MissingVariable, TemplateError, parts_for
from streams.domain.unsubscribe import Leaving, UnsubscribeLinks

#: Why a delivery fails before any provider is asked.
NO_CHANNEL = "no_channel"
NO_ADDRESS = "no_address"
NO_TEMPLATE = "template_unknown"
NO_PARTS = "template_lacks_channel"
TOO_LARGE = "too_large"
#: Why a delivery is suppressed, where no list of addresses says it.
OPTED_OUT = "opted_out"

#: A rendered delivery must fit into an internal record with room for headers.
MAX_DELIVERY_BYTES = 2 * 1024 * 1024

#: The fields of a delivery that hang on nothing but its request and channel.
Known = Mapping[str, Any]

#: Why nothing goes to an address, by (channel, address, category); '' stands for all categories.
Unsubscribed = Mapping[tuple[str, str, str], Collection[SuppressionReason]]


class Renders(Protocol):
    """The part of the renderer that planning needs."""

    def render(
        self,
        channel: str,
        parts: Mapping[str, str],
        data: Mapping[str, object],
        *,
        locale: str | None = None,
        reader_locale: str | None = None,
    ) -> dict[str, str]:
        """Rendered parts; raises TemplateError. `locale` is that of the parts, `reader_locale` the person's."""


class Surroundings(NamedTuple):
    """All that a decision needs besides the request."""

    person: Person
    category: Category
    unsubscribed: Unsubscribed
    #: The published parts of the request's template, in all locales.
    templates: Sequence[Template]
    default_locale: str
    renderer: Renders
    #: Makes the links by which people leave; None where there are none.
    links: UnsubscribeLinks | None = None


class Planned(NamedTuple):
    """One channel of a request. `value` is the rendered record where it is to be sent."""

    delivery: Delivery
    status: Status
    reason: str | None = None
    value: bytes | None = None
    #: Of an SMS: what it takes, sent or too large.
    segments: int | None = None


def plan(
    request: NotificationRequest,
    notification_id: UUID,
    around: Surroundings,
    *,
    generation: int,
    created_at: datetime,
) -> list[Planned]:
    """Decides each channel by itself. Empty when neither the request nor its category names a channel."""
    channels = request.wanted_channels or around.category.default_channels
    return [
        _planned(request, channel, _known(request, notification_id, channel, generation, created_at), around)
        for channel in channels
    ]


def _planned(request: NotificationRequest, channel: Channel, known: Known, around: Surroundings) -> Planned:
    to, devices = address(request, channel, around.person)
    if to is None and not devices and channel is not Channel.IN_APP:
        return _ended(known, Status.FAILED, NO_ADDRESS)
    unwanted = refusal(channel, to, around)
    if unwanted is not None:
        return _ended(known, Status.SUPPRESSED, unwanted)
    locale = request.recipient.locale or around.person.locale
    leave = _unsubscribe_url(known, to, around)
    try:
        content = _content(request, channel, locale, around, leave)
        if channel is Channel.EMAIL and request.options.email is not None:
            check_email_options(request.options.email)
    except Refused as error:
        return _ended(known, Status.FAILED, _word(error))
    except TemplateError as error:
        return _ended(known, Status.FAILED, template_reason(error))
    url = leave if channel is Channel.EMAIL else None
    delivery = Delivery(**known, to=to, devices=devices, content=content, locale=locale, unsubscribe_url=url)
    value = delivery.record_value()
    count = segments(content["text"]) if channel is Channel.SMS else None
    is_too_large = len(value) > MAX_DELIVERY_BYTES or (count or 0) > MAX_SEGMENTS
    wrong = TOO_LARGE if is_too_large else _push_problem(delivery) if channel is Channel.PUSH else None
    if wrong is not None:
        return _ended(known, Status.FAILED, wrong, count=count)
    return Planned(delivery=delivery, status=Status.QUEUED, value=value, segments=count)


def _known(
    request: NotificationRequest, notification_id: UUID, channel: Channel, generation: int, created_at: datetime
) -> Known:
    return {
        "delivery_id": delivery_id(notification_id, channel),
        "notification_id": notification_id,
        "generation": generation,
        "user_id": request.user_id,
        "channel": channel,
        "category": request.category,
        "options": request.options,
        "metadata": request.metadata,
        "created_at": created_at,
        "expires_at": request.expires_at,
    }


def _ended(known: Known, status: Status, reason: str, *, count: int | None = None) -> Planned:
    """One that goes nowhere, and so has neither content nor address."""
    return Planned(delivery=Delivery(**known, content={}), status=status, reason=reason, segments=count)


def address(request: NotificationRequest, channel: Channel, person: Person) -> tuple[str | None, tuple[Device, ...]]:
    """Where a channel reaches the person: the request's `recipient` before the stored contact."""
    if channel is Channel.EMAIL:
        return request.recipient.email or person.email, ()
    if channel is Channel.SMS:
        return request.recipient.phone or person.phone, ()
    if channel is Channel.PUSH:
        return None, push.distinct(request.recipient.device_tokens or person.devices)
    return None, ()


def refusal(channel: Channel, to: str | None, around: Surroundings) -> str | None:
    """Why this must not be sent: the person doesn't want it, or the address is on a list.

    A transactional category is exempt from what the person doesn't want, but not from dead addresses and complaints.
    """
    transactional = around.category.transactional
    chosen = around.person.categories.get(around.category.key, {}).get(channel)
    if chosen is None:
        chosen = around.person.channels.get(channel)
    if chosen is False and not transactional:
        return OPTED_OUT
    if to is None or not around.unsubscribed:
        return None
    listed = listed_as(channel, to)
    reasons = {
        reason
        for category in ("", around.category.key)
        for reason in around.unsubscribed.get((channel, listed, category), ())
        if not (transactional and reason is SuppressionReason.UNSUBSCRIBED)
    }
    return min(reasons, default=None)


def _unsubscribe_url(known: Known, to: str | None, around: Surroundings) -> str | None:
    if around.links is None or to is None or around.category.transactional:
        return None
    leaving = Leaving(
        channel=known["channel"], address=to, category=known["category"], notification_id=known["notification_id"]
    )
    return around.links.url(leaving)


def _push_problem(delivery: Delivery) -> str | None:
    """What no vendor would take is not sent to any."""
    try:
        return TOO_LARGE if push.fits_nobody(delivery) else None
    except Refused as error:
        return _word(error)


def _content(
    request: NotificationRequest, channel: Channel, locale: str | None, around: Surroundings, leave: str | None
) -> dict[str, str]:
    place: str = channel
    if request.content is not None:
        given = request.content.parts()
        if channel is Channel.PUSH and push.is_asked_silent(request.options.push, given):
            place = "push_data"
        parts: Mapping[str, str] = parts_for(place, given)
        written_in = locale
    else:
        template = pick_template(around.templates, channel, locale, around.default_locale)
        parts, written_in = template.parts, template.locale
    data = completed(request.data, unsubscribe_url=leave)
    return around.renderer.render(place, parts, data, locale=written_in, reader_locale=locale)


def pick_template(templates: Sequence[Template], channel: Channel, locale: str | None, default_locale: str) -> Template:
    """The parts in the best locale: the asked one, its language, the default, else the first by name.

    Raises:
        Refused: when the template is unknown, or has no parts for the channel.
    """
    if not templates:
        raise Refused("template_id", NO_TEMPLATE)
    of_channel = {template.locale: template for template in templates if template.channel is channel}
    if not of_channel:
        raise Refused("template_id", NO_PARTS)
    for candidate in _candidates(locale, default_locale):
        if candidate in of_channel:
            return of_channel[candidate]
    return of_channel[min(of_channel)]


def _candidates(*locales: str | None) -> Iterator[str]:
    for locale in locales:
        if locale:
            yield locale
            yield locale.replace("_", "-").split("-")[0]


def template_reason(error: TemplateError) -> str:
    """A failure's reason in words that hold no data: `variable_missing: name`."""
    if isinstance(error, MissingVariable):
        return f"variable_missing: {error.name}"
    return f"template_refused: {error.field}: {error.reason}"


def _word(error: Refused) -> str:
    return error.reason if error.field == "template_id" else f"invalid {error.field}: {error.reason}"


def addresses(requests: Iterable[tuple[NotificationRequest, Person]]) -> set[str]:
    """All addresses that these requests could go to, for one look into the unsubscribe lists."""
    return {
        listed_as(channel, to)
        for request, person in requests
        for channel in (Channel.EMAIL, Channel.SMS)
        if (to := address(request, channel, person)[0]) is not None
    }
