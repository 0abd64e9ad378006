"""What AWS tells by SNS: verified, then read by whoever speaks. Both addresses take the events of both services, as
one topic may carry them all."""

from __future__ import annotations

import re
from urllib.parse import quote

import orjson
import structlog

from models.errors import Refused
from models.provider_events import ProviderEvent
from models.settings import Settings
from streams.providers.callbacks import Callback, CallbackSource
from streams.providers.ses_events import ses_events
from streams.providers.sms_events import sms_events
from streams.providers.sns_certificates import Fetch, SnsCertificates, fetch
from streams.providers.sns_messages import NOTIFICATION, SUBSCRIPTION, SnsMessage, SnsVerifier, read_message

log = structlog.get_logger()

#: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
_TOPIC_ARN = re.compile(
    r"arn:aws(?P<partition>-[a-z-]+)?:sns:(?P<region>[a-z]{2}(?:-[a-z]+){1,3}-[0-9]{1,2}):[0-9]{12}:(?P<name>[\w.-]{1,256})"
)
_LONGEST_TOKEN = 2000
#: What SES says to a topic that it is connected with; no event.
_SES_GREETING = "Successfully validated SNS topic"


class AwsCallbacks(CallbackSource):
    """Messages of the topics in `SNS_TOPIC_ARNS`."""

    def __init__(self, settings: Settings, *, fetch: Fetch = fetch) -> None:
        """`fetch` is for tests: all that ever leaves this class goes through it.

        Raises:
            Refused: when the setting is missing or wrong.
        """
        if not settings.sns_topic_arns:
            raise Refused("SNS_TOPIC_ARNS", "is not set")
        if not all(_TOPIC_ARN.fullmatch(arn) for arn in settings.sns_topic_arns):
            raise Refused("SNS_TOPIC_ARNS", "must be ARNs, as in arn:aws:sns:us-east-1:123456789012:ses-events")
        self._fetch = fetch
        self._endpoint = settings.aws_endpoint_url
        self._verifier = SnsVerifier(
            settings, certificates=SnsCertificates(folder=settings.sns_certificates, fetch=fetch)
        )

    async def verify(self, callback: Callback) -> None:
        """By SNS's signature."""
        await self._verifier.verify(read_message(callback), now=callback.received_at)

    async def parse_events(self, callback: Callback) -> list[ProviderEvent]:
        """The events of a notification. A subscription to one of our topics is confirmed; nothing else is done."""
        message = read_message(callback)
        if message.type == SUBSCRIPTION:
            await self._confirm(message)
        elif message.type == NOTIFICATION:
            return _events(message)
        else:
            log.warning("sns subscription ended", topic=_topic_name(message.topic_arn))
        return []

    async def _confirm(self, message: SnsMessage) -> None:
        """By an address of our own making: the message's SubscribeURL is not looked at."""
        if not message.token or len(message.token) > _LONGEST_TOKEN:
            raise Refused("Token", "is no token")
        try:
            await self._fetch(confirmation_url(message.topic_arn, message.token, endpoint=self._endpoint))
        except FileNotFoundError:
            raise Refused("Token", "is not accepted by SNS") from None
        log.info("sns subscription confirmed", topic=_topic_name(message.topic_arn))


def confirmation_url(topic_arn: str, token: str, *, endpoint: str | None) -> str:
    """Where a subscription is confirmed: at the topic's region, or at `AWS_ENDPOINT_URL`.

    https://docs.aws.amazon.com/sns/latest/api/API_ConfirmSubscription.html
    """
    match = _TOPIC_ARN.fullmatch(topic_arn)
    assert match is not None  # it is one of the settings'
    suffix = "amazonaws.com.cn" if match["partition"] == "-cn" else "amazonaws.com"
    base = (endpoint or f"https://sns.{match['region']}.{suffix}").rstrip("/")
    query = f"Action=ConfirmSubscription&Version=2010-03-31&TopicArn={quote(topic_arn, safe='')}"
    return f"{base}/?{query}&Token={quote(token, safe='')}"


def _topic_name(arn: str) -> str:
    return arn.rpartition(":")[2]


def _events(message: SnsMessage) -> list[ProviderEvent]:
    if message.text.startswith(_SES_GREETING):
        return []
    try:
        told = orjson.loads(message.text)
    except ValueError:
        raise Refused("Message", "is not JSON") from None
    if not isinstance(told, dict):
        raise Refused("Message", "is no JSON object")
    if isinstance(told.get("mail"), dict):
        return ses_events(told, message_id=message.message_id, sent_at=message.sent_at)
    return sms_events(told, message_id=message.message_id, sent_at=message.sent_at)
