"""AWS SNS for SMS: one Publish per delivery, to a phone number.

SNS itself tells nothing of a message afterwards. AWS End User Messaging, which carries it, does, to a topic of SNS:
see `sms_events`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import quote_plus

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import Settings
from streams.domain.sms_senders import sender_for
from streams.providers.aws import AwsApi, Ending, Service
from streams.providers.base import DeliveryResult, NotificationProvider, Reach
from streams.providers.features import refuse_unknown
from streams.providers.sns_callbacks import AwsCallbacks

if TYPE_CHECKING:
    from streams.providers.aws_sdk import Credentials

#: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html#API_Publish_Errors
_OUTCOMES = {
    "AuthorizationError": Outcome.BROKEN,
    "InvalidSecurity": Outcome.BROKEN,
    "InvalidParameter": Outcome.PERMANENT,
    "InvalidParameterValue": Outcome.PERMANENT,
    "KMSAccessDenied": Outcome.BROKEN,
    "KMSThrottling": Outcome.RETRY,
    "OptedOut": Outcome.TARGET_DEAD,
    "ParameterValueInvalid": Outcome.PERMANENT,
    "UserError": Outcome.PERMANENT,
}
_SERVICE = Service(
    endpoint="sns",
    signing_name="sns",
    protocol="query",
    content_type="application/x-www-form-urlencoded; charset=utf-8",
    outcomes=_OUTCOMES,
)
_VERSION = "2010-03-31"
#: https://docs.aws.amazon.com/sns/latest/dg/sms_publish-to-phone.html
_LONGEST_TEXT = 1600

_SENDER_ID = "AWS.SNS.SMS.SenderID"
_SENDER_NUMBER = "AWS.MM.SMS.OriginationNumber"
_SMS_TYPE = "AWS.SNS.SMS.SMSType"
_MAX_PRICE = "AWS.SNS.SMS.MaxPrice"
#: What only SNS has, taken from `options.provider` as it is, and what it may look like.
#: https://docs.aws.amazon.com/sns/latest/dg/sms_publish-to-phone.html#sms_publish_sdk
_OWN_OPTIONS: Mapping[str, re.Pattern[str]] = {
    _SMS_TYPE: re.compile(r"Promotional|Transactional"),
    _MAX_PRICE: re.compile(r"[0-9]{1,3}(\.[0-9]{1,5})?"),
    "AWS.MM.SMS.EntityId": re.compile(r"[A-Za-z0-9]{1,50}"),
    "AWS.MM.SMS.TemplateId": re.compile(r"[A-Za-z0-9]{1,50}"),
}
_E164 = re.compile(r"\+[1-9][0-9]{4,14}")
#: A number or short code of the account's.
_NUMBER = re.compile(r"\+?[0-9]{3,15}")
#: Up to 11 letters and digits, at least one of them a letter.
_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9-]{1,11}")
_MESSAGE_ID = re.compile(rb"<MessageId>([A-Za-z0-9-]{1,100})</MessageId>")


class SnsProvider(NotificationProvider):
    """Sends SMS by SNS."""

    name: ClassVar[str] = "sns"
    channel: ClassVar[Channel] = Channel.SMS

    def __init__(
        self,
        settings: Settings,
        *,
        credentials: Credentials | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connects to nothing yet; `credentials` is for tests.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        self._api = AwsApi(
            settings,
            _SERVICE,
            region=settings.aws_sns_region,
            region_setting="AWS_SNS_REGION",
            credentials=credentials,
            clock=clock,
        )
        # Senders that only another vendor has, as Twilio's messaging services, are left to it.
        self._senders = {
            country: sender for country, sender in settings.sms_senders.items() if _sender_attribute(sender)
        }

    async def open(self) -> None:
        """Makes the session; connections come with the first sends."""
        await self._api.open()

    async def close(self) -> None:
        """Closes all connections."""
        await self._api.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One Publish."""
        refuse_unknown(delivery, provider=self.name, takes=_OWN_OPTIONS)
        try:
            body = payload(delivery, senders=self._senders)
        except Refused as error:
            ending = Ending(outcome=Outcome.PERMANENT, reason=f"refused {error.field}", reach=Reach.NOT_ASKED)
            return ending.result(self.name)
        ending = await self._api.post("/", body)
        if ending.outcome is Outcome.SENT:
            return ending.result(self.name, message_id=_message_id(ending.body))
        return _refused(ending, delivery).result(self.name)


def payload(delivery: Delivery, *, senders: Mapping[str, str]) -> bytes:
    """The form of Publish: https://docs.aws.amazon.com/sns/latest/api/API_Publish.html.

    Raises:
        Refused: naming the field that SNS would not take.
    """
    to, text = delivery.to or "", delivery.content.get("text", "")
    if not _E164.fullmatch(to):
        raise Refused("recipient.phone", "must be a number in E.164")
    if not text or len(text) > _LONGEST_TEXT:
        raise Refused("content.text", f"SNS takes 1 to {_LONGEST_TEXT} characters")
    try:
        form = f"Action=Publish&Version={_VERSION}&PhoneNumber={quote_plus(to)}&Message={quote_plus(text)}"
    except UnicodeEncodeError:
        raise Refused("content.text", "must not contain lone surrogates") from None
    attributes = _attributes(delivery, to, senders)
    entries = [_entry(place, name) + quote_plus(value) for place, (name, value) in enumerate(attributes.items(), 1)]
    return "&".join((form, *entries)).encode("ascii")


@lru_cache(maxsize=256)
def _entry(place: int, name: str) -> str:
    """An attribute's fields up to its value."""
    entry, kind = f"MessageAttributes.entry.{place}", "Number" if name == _MAX_PRICE else "String"
    return f"{entry}.Name={name}&{entry}.Value.DataType={kind}&{entry}.Value.StringValue="


def _attributes(delivery: Delivery, to: str, senders: Mapping[str, str]) -> dict[str, str]:
    """The delivery id among them is for people who search AWS's records; SNS doesn't repeat it."""
    found = {"delivery_id": str(delivery.delivery_id), _SMS_TYPE: "Transactional"}
    sender = _wanted_sender(delivery) or sender_for(to, senders, None)
    if sender is not None:
        attribute = _sender_attribute(sender)
        if attribute is None:
            raise Refused("options.sms.sender", "must be a number, or up to 11 letters and digits with a letter")
        found[attribute] = sender
    for name, value in (delivery.options.provider or {}).items():
        if not isinstance(value, str) or not _OWN_OPTIONS[name].fullmatch(value):
            raise Refused(f"options.provider.{name}", "is nothing that SNS takes")
        found[name] = value
    return found


def _wanted_sender(delivery: Delivery) -> str | None:
    return delivery.options.sms.sender if delivery.options.sms is not None else None


def _sender_attribute(sender: str) -> str | None:
    """Where a sender stands in the request; None for one that SNS can't have."""
    if _NUMBER.fullmatch(sender):
        return _SENDER_NUMBER
    return _SENDER_ID if _NAME.fullmatch(sender) else None


def _message_id(answer: bytes) -> str | None:
    match = _MESSAGE_ID.search(answer)
    return match[1].decode("ascii") if match else None


def _refused(ending: Ending, delivery: Delivery) -> Ending:
    """An error about a sender that this request didn't choose is the settings' fault: it burns no message."""
    about_sender = ending.error.startswith("InvalidParameter") and (
        _SENDER_NUMBER in ending.text or _SENDER_ID in ending.text
    )
    if about_sender and not _wanted_sender(delivery):
        return Ending(outcome=Outcome.BROKEN, reason=f"{ending.reason} sender")
    return Ending(outcome=ending.outcome, reason="opted_out") if ending.error == "OptedOut" else ending


class SnsCallbacks(AwsCallbacks):
    """What happens to SMS, as SNS brings it."""

    name: ClassVar[str] = "sns"
