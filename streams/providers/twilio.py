"""Twilio's Programmable Messaging: one POST per SMS.

aiohttp sends the form: the SDK's client ignores its timeout (twilio-python#925) and takes several times as long. The
delivery id travels in the query of the status callback's address, which Twilio signs.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from base64 import b64encode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any, ClassVar
from urllib.parse import quote_plus, urlsplit

import aiohttp
import orjson

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.errors import Refused
from models.settings import Settings
from streams.domain.sms_senders import sender_for
from streams.providers.base import DeliveryResult, DeliveryStatus, NotificationProvider, Reach
from streams.providers.features import refuse_unknown
from streams.providers.retry_after import asked_wait
from streams.providers.twilio_outcomes import OPTED_OUT, is_away, outcome_of

#: https://www.twilio.com/docs/messaging/api/message-resource#message-status-values
_STATUSES: Mapping[str, Status] = {
    "accepted": Status.SENT,
    "scheduled": Status.SENT,
    "queued": Status.SENT,
    "sending": Status.SENT,
    "sent": Status.SENT,
    "delivered": Status.DELIVERED,
    "read": Status.OPENED,
    "undelivered": Status.FAILED,
    "failed": Status.FAILED,
    "canceled": Status.CANCELLED,
}

#: What only Twilio has, taken from `options.provider`: the form field, its type, and its values where they are few.
#: Left out on purpose: what changes recipient, sender, content or time of the send (media, content templates,
#: schedules, MMS), and `risk_check`, with which a request could switch off the guard against SMS pumping.
_OWN_OPTIONS: Mapping[str, tuple[str, type, frozenset[str]]] = {
    "address_retention": ("AddressRetention", str, frozenset({"retain", "obfuscate"})),
    "content_retention": ("ContentRetention", str, frozenset({"retain", "discard"})),
    "shorten_urls": ("ShortenUrls", bool, frozenset()),
    "smart_encoded": ("SmartEncoded", bool, frozenset()),
    "validity_period": ("ValidityPeriod", int, frozenset()),
}
_LONGEST_VALIDITY_SECONDS = 36_000

CALLBACK_PATH = "/api/v1/webhooks/twilio"
_BASE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[!-~]*)?")
_ACCOUNT = re.compile(r"AC[0-9a-zA-Z]{32}")
_SERVICE = re.compile(r"MG[0-9a-zA-Z]{32}")
_MESSAGE = re.compile(r"[A-Z]{2}[0-9a-zA-Z]{32}")
#: A number, a short code, or up to 11 letters, digits and blanks with a letter among them.
_SENDER = re.compile(r"\+[1-9][0-9]{5,14}|[0-9]{3,8}|(?=.*[A-Za-z])[A-Za-z0-9 &_.+-]{1,11}|" + _SERVICE.pattern)
_LONGEST_ANSWER = 64 * 1024
_LONGEST_ID = 255
_KEEPALIVE_SECONDS = 15.0
#: Ours ends before the lane's own limit does, so that the outcome is decided here, where it is known what was sent.
_SHARE_OF_TIMEOUT = 0.95
_SHARE_FOR_CONNECT = 0.5


class TwilioProvider(NotificationProvider):
    """Sends SMS by Twilio's API."""

    name: ClassVar[str] = "twilio"
    channel: ClassVar[Channel] = Channel.SMS

    def __init__(self, settings: Settings, *, clock: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """Connects to nothing yet.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        _check(settings)
        self._settings = settings
        base = settings.twilio_base_url.rstrip("/")
        self._url = f"{base}/2010-04-01/Accounts/{settings.twilio_account_sid}/Messages"
        self._callback = _callback_field(settings)
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Makes the session; connections come with the first sends."""
        if self._session is None:
            self._session = _session(self._settings)

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One POST."""
        refuse_unknown(delivery, provider=self.name, takes=_OWN_OPTIONS)
        try:
            body = self._form(delivery)
        except Refused as error:
            return _result(Outcome.PERMANENT, f"refused {error.field}", reach=Reach.NOT_ASKED)
        try:
            status, headers, answer = await self._ask("POST", f"{self._url}.json", body)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _failed(error)
        return _answered(status, headers, answer, own_sender=_own_sender(delivery) is not None, now=self._clock())

    async def get_status(self, message_id: str) -> DeliveryStatus:
        """Asks for the message. What can't be told now is None, with the reason."""
        if not _MESSAGE.fullmatch(message_id):
            return DeliveryStatus(status=None, detail="no message of Twilio")
        try:
            status, _, answer = await self._ask("GET", f"{self._url}/{message_id}.json")
        except (aiohttp.ClientError, OSError) as error:
            return DeliveryStatus(status=None, detail=_failed(error).reason)
        told = _decoded(answer)
        if status != 200:
            return DeliveryStatus(status=None, detail=_word(status, _code(told, "code")))
        code = _code(told, "error_code")
        known = _STATUSES.get(str(told.get("status")))
        return DeliveryStatus(status=known, detail=None if code is None else str(code))

    async def _ask(self, method: str, url: str, body: bytes | None = None) -> tuple[int, Mapping[str, str], bytes]:
        await self.open()
        assert self._session is not None
        async with self._session.request(method, url, data=body, allow_redirects=False) as response:
            return response.status, response.headers, await _read(response)

    def _form(self, delivery: Delivery) -> bytes:
        """The fields of https://www.twilio.com/docs/messaging/api/message-resource#create-a-message-resource.

        Written by hand: `urlencode` of all fields, the callback's address quoted twice, takes four times as long.

        Raises:
            Refused: naming the field, when an own option is not what Twilio takes.
        """
        to = delivery.to or ""
        default = sender_for(to, self._settings.sms_senders, self._settings.twilio_from)
        fields = [
            f"To={quote_plus(to)}",
            _sender_field(_own_sender(delivery) or default or ""),
            f"Body={quote_plus(delivery.content['text'])}",
        ]
        if self._callback is not None:
            ids = f"{delivery.delivery_id}%26generation%3D{delivery.generation}%26attempt%3D{delivery.attempt}"
            fields.append(f"{self._callback}{ids}")
        fields += _own_options(delivery)
        return "&".join(fields).encode()


def _check(settings: Settings) -> None:
    if not settings.twilio_account_sid:
        raise Refused("TWILIO_ACCOUNT_SID", "is not set")
    if not _ACCOUNT.fullmatch(settings.twilio_account_sid):
        raise Refused("TWILIO_ACCOUNT_SID", "must be AC and 32 characters")
    if not settings.twilio_auth_token:
        raise Refused("TWILIO_AUTH_TOKEN", "is not set")
    if not settings.twilio_from:
        raise Refused("TWILIO_FROM", "is not set")
    if not _BASE_URL.fullmatch(settings.twilio_base_url):
        raise Refused("TWILIO_BASE_URL", "must be an http or https URL")
    for name, senders in (("TWILIO_FROM", [settings.twilio_from]), ("SMS_SENDERS", settings.sms_senders.values())):
        if not all(_SENDER.fullmatch(sender) for sender in senders):
            raise Refused(name, "must be a number (+…), a short code, a name of 11 characters or a service (MG…)")


def _callback_field(settings: Settings) -> str | None:
    """Where Twilio reports to, as a form's field that ends where the delivery's id belongs.

    None where Twilio couldn't reach it: it refuses a message with such an address (21609).

    A stand-in for Twilio on this machine or network reaches what is here.
    """
    public = settings.public_url.rstrip("/")
    if not is_public(public) and is_public(settings.twilio_base_url):
        return None
    if not _BASE_URL.fullmatch(public):
        return None
    return "StatusCallback=" + quote_plus(f"{public}{CALLBACK_PATH}?delivery_id=")


def is_public(url: str) -> bool:
    """Whether an address may be one of the internet's. Names are taken at their word, but for local ones."""
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".").lower()
    except ValueError:
        return False
    if parts.scheme not in ("http", "https"):
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return "." in host and not host.endswith((".localhost", ".local", ".internal"))


def _session(settings: Settings) -> aiohttp.ClientSession:
    total = settings.provider_timeout_seconds * _SHARE_OF_TIMEOUT
    pair = f"{settings.twilio_account_sid}:{settings.twilio_auth_token}".encode()
    return aiohttp.ClientSession(
        # The lane's slots are the limit on calls; a second one here would only hide them in a queue.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ttl_dns_cache=60),
        timeout=aiohttp.ClientTimeout(total=total, connect=total * _SHARE_FOR_CONNECT, ceil_threshold=60),
        headers={
            "Authorization": f"Basic {b64encode(pair).decode()}",
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        },
        cookie_jar=aiohttp.DummyCookieJar(),
    )


@lru_cache(maxsize=1024)
def _sender_field(sender: str) -> str:
    return f"{'MessagingServiceSid' if _SERVICE.fullmatch(sender) else 'From'}={quote_plus(sender)}"


def _own_sender(delivery: Delivery) -> str | None:
    return delivery.options.sms.sender if delivery.options.sms is not None else None


def _own_options(delivery: Delivery) -> list[str]:
    asked = delivery.options.provider or {}
    return [f"{_OWN_OPTIONS[name][0]}={_own_option(name, value)}" for name, value in asked.items()]


def _own_option(name: str, value: object) -> str:
    _, kind, values = _OWN_OPTIONS[name]
    is_right = isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    if not is_right or (values and value not in values):
        raise Refused(f"options.provider.{name}", "is not what Twilio takes")
    if name == "validity_period" and not 1 <= int(str(value)) <= _LONGEST_VALIDITY_SECONDS:
        raise Refused(f"options.provider.{name}", f"must lie between 1 and {_LONGEST_VALIDITY_SECONDS}")
    return str(value).lower() if kind is bool else str(value)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """An answer that breaks off is no answer when it said yes; a no is a no however it ends."""
    answer = b""
    try:
        while len(answer) < _LONGEST_ANSWER and (chunk := await response.content.readany()):
            answer += chunk
    except (aiohttp.ClientError, OSError):
        if response.ok:
            raise
    return answer


def _decoded(answer: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(answer)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _code(told: Mapping[str, Any], name: str) -> int | None:
    value = told.get(name)
    return value if type(value) is int and 0 < value < 1_000_000 else None


def _answered(
    status: int, headers: Mapping[str, str], answer: bytes, *, own_sender: bool, now: datetime
) -> DeliveryResult:
    told = _decoded(answer)
    sid = told.get("sid")
    message_id = sid if isinstance(sid, str) and _is_word(sid) else None
    if 200 <= status < 300:
        code = _code(told, "error_code") if told.get("status") in ("failed", "undelivered") else None
    else:
        code, message_id = _code(told, "code"), None
    outcome = outcome_of(status, code, own_sender=own_sender)
    return _result(
        outcome,
        None if outcome is Outcome.SENT else _word(status, code),
        message_id=message_id,
        wait=asked_wait(headers, now=now) if outcome is Outcome.RETRY else None,
        reach=Reach.AWAY if is_away(status, code) else Reach.ANSWERED,
    )


def _word(status: int, code: int | None) -> str:
    return "opted_out" if code == OPTED_OUT else str(status if code is None else code)


def _is_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and 0 < len(text) <= _LONGEST_ID


def _failed(error: Exception) -> DeliveryResult:
    """Without an answer: whether the request was written decides. The error's text is never repeated."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return _result(Outcome.BROKEN, "certificate refused")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return _result(Outcome.RETRY, "connect timeout", reach=Reach.AWAY)
    if isinstance(error, aiohttp.ClientConnectorError):
        return _result(Outcome.RETRY, "unreachable", reach=Reach.AWAY)
    reason = "timeout" if isinstance(error, TimeoutError) else "disconnected"
    return _result(Outcome.AMBIGUOUS, reason, reach=Reach.AWAY)


def _result(
    outcome: Outcome,
    reason: str | None,
    *,
    message_id: str | None = None,
    wait: timedelta | None = None,
    reach: Reach = Reach.ANSWERED,
) -> DeliveryResult:
    return DeliveryResult(
        outcome=outcome,
        provider=TwilioProvider.name,
        reason=reason,
        provider_message_id=message_id,
        retry_after=wait,
        reach=reach,
    )
