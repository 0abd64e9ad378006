"""SendGrid's v3 mail/send over HTTP: one call per delivery, as a batch is refused as a whole.

The SDK builds the payload (16 µs); aiohttp sends it, because the SDK's own client opens a connection per request and
knows no timeout. The delivery id travels in `custom_args`, which SendGrid repeats in every event of the message.
"""

from __future__ import annotations

import re
import ssl
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import aiohttp
import orjson
from sendgrid.helpers.mail import Category, From, Mail, Personalization, ReplyTo
from yarl import URL

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import Settings
from streams.attachments import Attachments
from streams.domain.attachments import File
from streams.domain.mail_headers import Mailbox, encoded_text
from streams.domain.mime import Envelope, envelope, sender_mailbox
from streams.providers.attached import built, has_files, with_files
from streams.providers.base import DeliveryResult, NotificationProvider, Reach, UnsupportedFeature
from streams.providers.features import refuse_unsupported
from streams.providers.retry_after import asked_wait

#: https://www.twilio.com/docs/sendgrid/api-reference/how-to-use-the-sendgrid-v3-api/responses
_OUTCOMES = {
    200: Outcome.SENT,  # sandbox mode
    202: Outcome.SENT,
    400: Outcome.PERMANENT,
    401: Outcome.BROKEN,
    402: Outcome.BROKEN,
    403: Outcome.BROKEN,
    # Nothing is at this address: SENDGRID_BASE_URL is wrong, no message is to blame.
    404: Outcome.BROKEN,
    405: Outcome.BROKEN,
    408: Outcome.RETRY,
    413: Outcome.PERMANENT,
    429: Outcome.RETRY,
}
#: For what the table doesn't name, by hundreds. A redirect is not followed: it would carry the key elsewhere.
_OUTCOMES_BY_CLASS = {2: Outcome.SENT, 3: Outcome.BROKEN, 4: Outcome.PERMANENT, 5: Outcome.RETRY}

#: Answers of whoever stands before SendGrid, or of SendGrid when it serves nobody: no message is to blame.
_AWAY = frozenset({429, 502, 503, 504})

#: What only SendGrid has, taken from `options.provider` as it is. Left out on purpose: what changes recipients,
#: content or time of the send, and the `bypass_*` settings, which write to people who unsubscribed.
_OWN_OPTIONS: Mapping[str, type] = {
    "asm": dict,
    "batch_id": str,
    "ip_pool_name": str,
    "mail_settings": dict,
    "tracking_settings": dict,
}
_MAIL_SETTINGS = frozenset({"footer", "sandbox_mode"})
_BASE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[!-~]*)?")
_LONGEST_CATEGORY = 255
_LONGEST_ANSWER = 64 * 1024
_LONGEST_ID = 255
_KEEPALIVE_SECONDS = 15.0
#: Ours ends before the lane's own limit does, so that the outcome is decided here, where it is known what was sent.
_SHARE_OF_TIMEOUT = 0.95
_SHARE_FOR_CONNECT = 0.5
_LEAST_SECONDS = 0.1


class SendGridProvider(NotificationProvider):
    """Sends e-mail by SendGrid's API."""

    name: ClassVar[str] = "sendgrid"
    channel: ClassVar[Channel] = Channel.EMAIL

    def __init__(
        self,
        settings: Settings,
        *,
        attachments: Attachments | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connects to nothing yet.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        if not settings.sendgrid_api_key:
            raise Refused("SENDGRID_API_KEY", "is not set")
        sender_mailbox("EMAIL_FROM", settings.email_from)
        self._settings = settings
        self._timeout = _timeout(settings)
        self._default_from = settings.email_from
        self._url = _url(settings.sendgrid_base_url)
        self._attachments = attachments or Attachments(settings)
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
        await self._attachments.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One POST."""
        refuse_unsupported(delivery, provider=self.name, takes=_OWN_OPTIONS, attaches=True)
        try:
            if not has_files(delivery):
                return await self._post(delivery, self._body(delivery), self._timeout)
            started = time.monotonic()
            return await with_files(
                self._attachments, delivery, self.name, lambda files: self._send(delivery, files, started)
            )
        except Refused as error:
            return _result(Outcome.PERMANENT, f"refused {error.field}", reach=Reach.NOT_ASKED)

    async def _send(self, delivery: Delivery, files: Sequence[File], started: float) -> DeliveryResult:
        body = await built(lambda: self._body(delivery, files), files)
        # Fetching the files took a part of the call's time.
        return await self._post(delivery, body, _timeout(self._settings, gone=time.monotonic() - started))

    def _body(self, delivery: Delivery, files: Sequence[File] = ()) -> bytes:
        return orjson.dumps(payload(delivery, default_from=self._default_from, files=files))

    async def _post(self, delivery: Delivery, body: bytes, timeout: aiohttp.ClientTimeout) -> DeliveryResult:
        await self.open()
        assert self._session is not None
        try:
            async with self._session.post(self._url, data=body, allow_redirects=False, timeout=timeout) as response:
                answer = await _read(response)
                return _answered(response.status, response.headers, answer, delivery, now=self._clock())
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _failed(error)


def _url(base: str) -> URL:
    try:
        if _BASE_URL.fullmatch(base):
            return URL(f"{base.rstrip('/')}/v3/mail/send")
    except ValueError:  # a port or an address that can't be
        pass
    raise Refused("SENDGRID_BASE_URL", "must be an http or https URL")


def _timeout(settings: Settings, *, gone: float = 0.0) -> aiohttp.ClientTimeout:
    total = max(settings.provider_timeout_seconds * _SHARE_OF_TIMEOUT - gone, _LEAST_SECONDS)
    return aiohttp.ClientTimeout(total=total, connect=total * _SHARE_FOR_CONNECT, ceil_threshold=60)


def _session(settings: Settings) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # The lane's slots are the limit on calls; a second one here would only hide them in a queue.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ttl_dns_cache=60),
        timeout=_timeout(settings),
        headers={"Authorization": f"Bearer {settings.sendgrid_api_key}", "Content-Type": "application/json"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def payload(delivery: Delivery, *, default_from: str, files: Sequence[File] = ()) -> dict[str, Any]:
    """The JSON of mail/send: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/mail-send.

    Raises:
        Refused: naming the field, when an address, a header or the content can't be sent safely.
        UnsupportedFeature: for an option of `options.provider` that SendGrid has, but this service doesn't pass on.
    """
    to_whom = envelope(delivery, default_from=default_from)
    notification_id = str(delivery.notification_id)
    mail = Mail(subject=to_whom.subject)
    mail.from_email = _from(to_whom.sender)
    mail.add_personalization(_personalization(delivery, to_whom, notification_id))
    if to_whom.reply_to is not None:
        mail.reply_to = ReplyTo(to_whom.reply_to.address)
    for tag in reversed(to_whom.tags):  # the SDK puts each before the others
        mail.add_category(Category(_category(tag)))
    built: dict[str, Any] = mail.get()
    # The SDK makes an object of each header; its `Content` refuses by exception whatever begins like an API key, and
    # people may write what they like.
    built["headers"] = {"X-Notification-ID": notification_id}
    for name, value in to_whom.headers:
        built["headers"][name] = encoded_text(value)
    built["content"] = [
        {"type": f"text/{subtype}", "value": delivery.content[name]}
        for subtype, name in (("plain", "text"), ("html", "html"))
        if delivery.content.get(name)
    ]
    if files:
        built["attachments"] = [_attachment(file) for file in files]
    return built | _own_options(delivery) if delivery.options.provider else built


def _attachment(file: File) -> dict[str, str]:
    return {
        "content": file.content.base64,
        "type": file.content_type,
        "filename": file.name,
        "disposition": "attachment",
    }


def _personalization(delivery: Delivery, to_whom: Envelope, notification_id: str) -> Personalization:
    whom = Personalization()
    whom.tos = [{"email": to_whom.to.address}]
    whom.ccs = [{"email": copy.address} for copy in to_whom.cc]
    whom.custom_args = [
        {
            "delivery_id": str(delivery.delivery_id),
            "notification_id": notification_id,
            "generation": str(delivery.generation),
            "attempt": str(delivery.attempt),
        }
    ]
    return whom


def _from(sender: Mailbox) -> From:
    """The SDK parses what its constructor is given, which costs as much as the rest; this is parsed already."""
    person = From()
    person.email, person.name = sender.address, sender.name or None
    return person


def _category(tag: str) -> str:
    if len(tag) > _LONGEST_CATEGORY:
        raise Refused("options.email.tags", f"SendGrid takes {_LONGEST_CATEGORY} characters at most")
    return tag


def _own_options(delivery: Delivery) -> dict[str, Any]:
    options = delivery.options.provider or {}
    for name, value in options.items():
        if not isinstance(value, _OWN_OPTIONS[name]):
            raise Refused(f"options.provider.{name}", "has the wrong type for SendGrid")
    if not _MAIL_SETTINGS.issuperset(options.get("mail_settings", {})):
        raise UnsupportedFeature("options.provider.mail_settings", SendGridProvider.name)
    return options


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer's text, which only errors have.

    An answer that breaks off is no answer when it said yes; a no is a no however it ends.
    """
    answer = b""
    try:
        while len(answer) < _LONGEST_ANSWER and (chunk := await response.content.readany()):
            answer += chunk
    except (aiohttp.ClientError, OSError):
        if response.ok:
            raise
    return answer


def _answered(
    status: int, headers: Mapping[str, str], answer: bytes, delivery: Delivery, *, now: datetime
) -> DeliveryResult:
    outcome = _OUTCOMES.get(status) or _OUTCOMES_BY_CLASS.get(status // 100, Outcome.RETRY)
    if outcome is Outcome.SENT:
        return _result(outcome, None, message_id=_message_id(headers))
    if status == 403 and _has_own_sender(delivery) and _is_about_sender(answer):
        # "does not match a verified Sender Identity": this request's own From, while the account is fine.
        return _result(Outcome.PERMANENT, "403 from")
    return _result(
        outcome,
        str(status),
        wait=asked_wait(headers, now=now) if outcome is Outcome.RETRY else None,
        reach=Reach.AWAY if status in _AWAY else Reach.ANSWERED,
    )


def _has_own_sender(delivery: Delivery) -> bool:
    return delivery.options.email is not None and delivery.options.email.from_ is not None


def _is_about_sender(answer: bytes) -> bool:
    try:
        return any(error["field"] == "from" for error in orjson.loads(answer)["errors"])
    except (ValueError, TypeError, LookupError):
        return False


def _message_id(headers: Mapping[str, str]) -> str | None:
    value = headers.get("X-Message-Id", "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= _LONGEST_ID else None


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
        provider=SendGridProvider.name,
        reason=reason,
        provider_message_id=message_id,
        retry_after=wait,
        reach=reach,
    )
