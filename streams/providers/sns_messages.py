"""Messages of AWS SNS: whether SNS signed them, for one of our topics, lately.

Nothing of a message is believed before all that can be told without a request has been: its topic is one of ours, its
certificate's address has the one shape that SNS's have, its time is near. Only then a certificate may be fetched,
from AWS itself, and few are: names that led to nothing are remembered.
https://docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from models.settings import Settings
from streams.providers.callbacks import Callback, NotVerified, Stale
from streams.providers.sns_certificates import SnsCertificates, certificate_name

NOTIFICATION = "Notification"
SUBSCRIPTION = "SubscriptionConfirmation"
UNSUBSCRIPTION = "UnsubscribeConfirmation"

#: What is signed, by type, in this order; a subject only where there is one.
_SIGNED = {
    NOTIFICATION: ("Message", "MessageId", "Subject", "Timestamp", "TopicArn", "Type"),
    SUBSCRIPTION: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
    UNSUBSCRIPTION: ("Message", "MessageId", "SubscribeURL", "Timestamp", "Token", "TopicArn", "Type"),
}
_HASHES: dict[str, hashes.HashAlgorithm] = {
    "1": hashes.SHA1(),  # noqa: S303  SNS's older version, which topics use by default
    "2": hashes.SHA256(),
}
#: A clock ahead of ours by more is no clock.
_AHEAD = timedelta(minutes=5)
_LONGEST_ID = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class SnsMessage:
    """A message as SNS posts it to an address."""

    type: str
    message_id: str
    topic_arn: str
    text: str
    sent_at: datetime
    #: Of a confirmation: what it is confirmed with.
    token: str | None
    signature: bytes
    signature_version: str
    certificate_url: str
    #: What the signature covers.
    signed: bytes


def read_message(callback: Callback) -> SnsMessage:
    """The message of a callback, unverified.

    Raises:
        NotVerified: when it isn't one of SNS's.
    """
    try:
        fields = orjson.loads(callback.body)
    except ValueError:
        raise NotVerified("not a message of SNS") from None
    if not isinstance(fields, dict) or _text(fields, "Type") not in _SIGNED:
        raise NotVerified("not a message of SNS")
    if callback.headers.get("x-amz-sns-message-type") != fields["Type"]:
        raise NotVerified("the header names another type")
    return _message(fields)


def _message(fields: dict[str, Any]) -> SnsMessage:
    message_id = _text(fields, "MessageId")
    if not 0 < len(message_id) <= _LONGEST_ID:
        raise NotVerified("MessageId is missing")
    return SnsMessage(
        type=fields["Type"],
        message_id=message_id,
        topic_arn=_text(fields, "TopicArn"),
        text=_text(fields, "Message"),
        sent_at=_time(_text(fields, "Timestamp")),
        token=_text(fields, "Token") if fields["Type"] != NOTIFICATION else None,
        signature=_signature(_text(fields, "Signature")),
        signature_version=_text(fields, "SignatureVersion"),
        certificate_url=_text(fields, "SigningCertURL"),
        signed=_signed(fields),
    )


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise NotVerified(f"{name} is missing")
    return value


def _time(value: str) -> datetime:
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise NotVerified("Timestamp is no time") from None
    if moment.tzinfo is None:
        raise NotVerified("Timestamp is no time")
    return moment


def _signature(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise NotVerified("Signature is not base64") from None


def _signed(fields: dict[str, Any]) -> bytes:
    names = [name for name in _SIGNED[fields["Type"]] if name != "Subject" or fields.get(name) is not None]
    text = "".join(f"{name}\n{_text(fields, name)}\n" for name in names)
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise NotVerified("not a message of SNS") from None


class SnsVerifier:
    """Believes SNS's messages on the topics of `SNS_TOPIC_ARNS`."""

    def __init__(self, settings: Settings, *, certificates: SnsCertificates) -> None:
        self._topics = frozenset(settings.sns_topic_arns)
        self._tolerance = timedelta(seconds=settings.webhook_tolerance_seconds)
        self._certificates = certificates

    async def verify(self, message: SnsMessage, *, now: datetime) -> None:
        """Returns for what SNS signed, for one of our topics, lately; cheap questions come first.

        Raises:
            NotVerified: for all else.
            Unavailable: when the certificate can't be had now.
        """
        if message.topic_arn not in self._topics:
            raise NotVerified("another topic")
        algorithm = _HASHES.get(message.signature_version)
        if algorithm is None:
            raise NotVerified("an unknown SignatureVersion")
        name = certificate_name(message.certificate_url)
        if message.sent_at < now - self._tolerance or message.sent_at > now + min(_AHEAD, self._tolerance):
            raise Stale("signed for another time")
        key = await self._certificates.key(name, now=now)
        _check(key, message, algorithm)


def _check(key: RSAPublicKey, message: SnsMessage, algorithm: hashes.HashAlgorithm) -> None:
    try:
        key.verify(message.signature, message.signed, padding.PKCS1v15(), algorithm)
    except InvalidSignature:
        raise NotVerified("the signature doesn't fit") from None
