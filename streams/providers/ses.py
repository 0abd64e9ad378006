"""AWS SES by its v2 API: one SendEmail per delivery, with the whole message in `Raw`.

So headers, attachments and one-click unsubscribe come along as SMTP has them. The delivery id travels in `EmailTags`,
which SES repeats in every event of the configuration set. Its events come by SNS: see `ses_events`.
"""

from __future__ import annotations

import binascii
import re
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import orjson

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.errors import Refused
from models.settings import Settings
from streams.attachments import Attachments
from streams.domain.attachments import File
from streams.domain.mime import Mail, build_mail, sender_mailbox
from streams.providers.attached import built, has_files, with_files
from streams.providers.aws import AwsApi, Ending, Service
from streams.providers.base import DeliveryResult, DeliveryStatus, NotificationProvider, Reach
from streams.providers.features import refuse_unsupported
from streams.providers.sns_callbacks import AwsCallbacks

if TYPE_CHECKING:
    from streams.providers.aws_sdk import Credentials

#: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html#API_SendEmail_Errors
_OUTCOMES = {
    "AccountSuspended": Outcome.BROKEN,
    "MailFromDomainNotVerified": Outcome.BROKEN,
    "MessageRejected": Outcome.PERMANENT,
    "NotFound": Outcome.BROKEN,  # the configuration set
    "SendingPaused": Outcome.BROKEN,
}
_SERVICE = Service(
    endpoint="email",
    signing_name="ses",
    protocol="rest-json",
    content_type="application/json",
    outcomes=_OUTCOMES,
)
_SEND = "/v2/email/outbound-emails"

#: What only SES has, taken from `options.provider` as it is.
_OWN_OPTIONS: Mapping[str, type] = {"ConfigurationSetName": str, "FromEmailAddressIdentityArn": str, "TenantName": str}
#: Errors that may be about who writes: either SES vouches for nobody of the account, or not for this request's sender.
_ABOUT_SENDER = frozenset({"AccessDenied", "MailFromDomainNotVerified", "MessageRejected"})
_MESSAGE_ID = re.compile(r"[A-Za-z0-9._@-]{1,255}")

#: The most telling first: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_InsightsEvent.html
_STATUSES = {
    "COMPLAINT": Status.COMPLAINED,
    "CLICK": Status.CLICKED,
    "OPEN": Status.OPENED,
    "BOUNCE": Status.BOUNCED,
    "DELIVERY": Status.DELIVERED,
    "REJECT": Status.FAILED,
    "RENDERING_FAILURE": Status.FAILED,
    "DELIVERY_DELAY": Status.SENT,
    "SEND": Status.SENT,
}


class SesProvider(NotificationProvider):
    """Sends e-mail by SES."""

    name: ClassVar[str] = "ses"
    channel: ClassVar[Channel] = Channel.EMAIL

    def __init__(
        self,
        settings: Settings,
        *,
        attachments: Attachments | None = None,
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
            region=settings.aws_ses_region,
            region_setting="AWS_SES_REGION",
            credentials=credentials,
            clock=clock,
        )
        sender_mailbox("EMAIL_FROM", settings.email_from)
        self._attachments = attachments or Attachments(settings)
        self._default_from = settings.email_from
        self._configuration_set = settings.aws_ses_configuration_set
        self._clock = clock

    async def open(self) -> None:
        """Makes the session; connections come with the first sends."""
        await self._api.open()

    async def close(self) -> None:
        """Closes all connections."""
        await self._api.close()
        await self._attachments.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One SendEmail."""
        refuse_unsupported(delivery, provider=self.name, takes=_OWN_OPTIONS, attaches=True)
        try:
            if not has_files(delivery):
                return await self._post(delivery, *self._request(delivery))
            started = time.monotonic()
            return await with_files(
                self._attachments, delivery, self.name, lambda files: self._send(delivery, files, started)
            )
        except Refused as error:
            ending = Ending(outcome=Outcome.PERMANENT, reason=f"refused {error.field}", reach=Reach.NOT_ASKED)
            return ending.result(self.name)

    async def _send(self, delivery: Delivery, files: Sequence[File], started: float) -> DeliveryResult:
        body, sender = await built(lambda: self._request(delivery, files), files)
        return await self._post(delivery, body, sender, gone=time.monotonic() - started)

    async def _post(self, delivery: Delivery, body: bytes, sender: str, *, gone: float = 0.0) -> DeliveryResult:
        ending = await self._api.post(_SEND, body, gone=gone)
        if ending.outcome is Outcome.SENT:
            return ending.result(self.name, message_id=_message_id(ending.body))
        return _refused(ending, delivery, sender=sender).result(self.name)

    def _request(self, delivery: Delivery, files: Sequence[File] = ()) -> tuple[bytes, str]:
        """The body, and the address that the mail is from."""
        mail = build_mail(delivery, default_from=self._default_from, now=self._clock(), files=files)
        own = _own_options(delivery)
        if self._configuration_set is not None:
            own = {"ConfigurationSetName": self._configuration_set, **own}
        return payload(delivery, mail, own), mail.sender

    async def get_status(self, message_id: str) -> DeliveryStatus:
        """By GetMessageInsights, which knows messages while Virtual Deliverability Manager is on."""
        if not _MESSAGE_ID.fullmatch(message_id):
            return DeliveryStatus(status=None)
        ending = await self._api.get(f"/v2/email/insights/{message_id}/")
        if ending.outcome is not Outcome.SENT:
            return DeliveryStatus(status=None, detail=ending.reason)
        return _status(ending.body)


def payload(delivery: Delivery, mail: Mail, own: Mapping[str, Any]) -> bytes:
    """The JSON of SendEmail: https://docs.aws.amazon.com/ses/latest/APIReference-V2/API_SendEmail.html.

    `FromEmailAddress` is left to the message's own From, which has a name beside the address.
    """
    to, *copies = mail.recipients
    destination = {"ToAddresses": [to], "CcAddresses": copies} if copies else {"ToAddresses": [to]}
    head = orjson.dumps({**own, "Destination": destination})
    # The mail is most of it: put in as the base64 that it is, instead of through a string.
    mail_data = binascii.b2a_base64(mail.data, newline=False)
    return b'%b,%b,"Content":{"Raw":{"Data":"%b"}}}' % (head[:-1], _tags(delivery), mail_data)


def _tags(delivery: Delivery) -> bytes:
    """Ids and numbers: nothing in them that JSON would escape, or that SES, which gives them back, wouldn't take."""
    return (
        f'"EmailTags":[{{"Name":"delivery_id","Value":"{delivery.delivery_id}"}}'
        f',{{"Name":"notification_id","Value":"{delivery.notification_id}"}}'
        f',{{"Name":"generation","Value":"{delivery.generation}"}}'
        f',{{"Name":"attempt","Value":"{delivery.attempt}"}}]'
    ).encode("ascii")


def _own_options(delivery: Delivery) -> dict[str, Any]:
    options = delivery.options.provider or {}
    for name, value in options.items():
        if not isinstance(value, _OWN_OPTIONS[name]):
            raise Refused(f"options.provider.{name}", "has the wrong type for SES")
    return options


def _message_id(answer: bytes) -> str | None:
    try:
        value = orjson.loads(answer)["MessageId"]
    except (ValueError, TypeError, LookupError):
        return None
    return value if isinstance(value, str) and _MESSAGE_ID.fullmatch(value) else None


def _refused(ending: Ending, delivery: Delivery, *, sender: str) -> Ending:
    """Who is to blame where an error is about the sender: this request, if it chose one; else the settings.

    SES says "Email address is not verified. The following identities failed the check in region …: …", or that the
    role may not `ses:SendEmail` as `…:identity/…`. In the sandbox the same is said of recipients, which is the
    message's own fault.
    """
    options = delivery.options
    if ending.error == "NotFound" and "ConfigurationSetName" in (options.provider or {}):
        return _because(ending, Outcome.PERMANENT, "ConfigurationSetName")
    if ending.error not in _ABOUT_SENDER:
        return ending
    if options.email is not None and options.email.from_ is not None:
        is_own_fault = ending.error == "MailFromDomainNotVerified" or _names(ending.text, sender)
        return _because(ending, Outcome.PERMANENT, "from") if is_own_fault else ending
    if ending.error == "MessageRejected" and "not verified" in ending.text and _names(ending.text, sender):
        return _because(ending, Outcome.BROKEN, "from")
    return ending


def _because(ending: Ending, outcome: Outcome, what: str) -> Ending:
    return Ending(outcome=outcome, reason=f"{ending.reason} {what}")


def _names(text: str, address: str) -> bool:
    """Whether an error names the identity that an address belongs to: itself, or its domain."""
    domain = address.rpartition("@")[2]
    named = {word.rpartition("identity/")[2] for word in re.split(r"[\s,;'`\"<>()]+", text.lower())}
    return not named.isdisjoint({address.lower(), domain.lower(), f"{address.lower()}.", f"{domain.lower()}."})


def _status(answer: bytes) -> DeliveryStatus:
    try:
        insights = orjson.loads(answer)["Insights"]
        events = {event["Type"]: event.get("Details") or {} for insight in insights for event in insight["Events"]}
    except (ValueError, TypeError, LookupError, AttributeError):
        return DeliveryStatus(status=None)
    for kind, status in _STATUSES.items():
        if kind in events:
            return DeliveryStatus(status=status, detail=_detail(events[kind]))
    return DeliveryStatus(status=None)


def _detail(details: Any) -> str | None:
    """The kind of a bounce; the diagnostic text beside it holds addresses."""
    kind = details.get("Bounce", {}).get("BounceType") if isinstance(details, dict) else None
    return kind if kind in ("PERMANENT", "TRANSIENT", "UNDETERMINED") else None


class SesCallbacks(AwsCallbacks):
    """SES's events, as SNS brings them."""

    name: ClassVar[str] = "ses"
