"""FCM's HTTP v1 API: one call per device.

The SDK encodes and checks the message; aiohttp sends it, as the SDK's own `send_each` makes 300 to 600 calls a second
and waits inside for as long as a Retry-After says. The delivery id travels in `data`, which the app is given.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import aiohttp
import orjson
import structlog
from firebase_admin import messaging  # type: ignore[import-untyped]
from firebase_admin._messaging_encoder import MessageEncoder  # type: ignore[import-untyped]
from google.auth.exceptions import GoogleAuthError, RefreshError
from yarl import URL

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.requests import Device
from models.settings import Settings
from streams.domain import push
from streams.metrics import PROVIDER_ALERTS
from streams.providers.base import DeliveryResult, NotificationProvider, Reach
from streams.providers.google_token import AccessToken, fetcher, service_account
from streams.providers.push_options import device_of, laid_over, own_options
from streams.providers.retry_after import asked_wait

log = structlog.get_logger()

#: By the `errorCode` of an answer: https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
_OUTCOMES = {
    "INVALID_ARGUMENT": Outcome.PERMANENT,  # unless it is the token's fault
    "UNREGISTERED": Outcome.TARGET_DEAD,
    # The token is another project's: no fault of the device, which stays.
    "SENDER_ID_MISMATCH": Outcome.PERMANENT,
    "QUOTA_EXCEEDED": Outcome.RETRY,
    "UNAVAILABLE": Outcome.RETRY,
    "INTERNAL": Outcome.RETRY,
    # What FCM uses at Apple's or a browser's is refused. Android devices are served all the same, so it holds nobody
    # up: a few tries, and an alert.
    "THIRD_PARTY_AUTH_ERROR": Outcome.RETRY,
}
#: By the status where no code says more. A redirect is not followed: it would carry the token elsewhere.
#: 404: no such project, or FCM_BASE_URL is wrong; no message is to blame.
_OUTCOMES_BY_STATUS = {
    400: Outcome.PERMANENT,
    401: Outcome.BROKEN,
    403: Outcome.BROKEN,
    404: Outcome.BROKEN,
    405: Outcome.BROKEN,
    413: Outcome.PERMANENT,
}
_OUTCOMES_BY_CLASS = {3: Outcome.BROKEN, 4: Outcome.RETRY, 5: Outcome.RETRY}
_AWAY = frozenset({429, 502, 503, 504})
#: What an operator has to mend while everything else goes on.
_ALERTS = frozenset({"SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR"})
_ALERT_LOG_SECONDS = 60.0

#: "The registration token is not a valid FCM registration token", and what it says of a FID.
_ABOUT_TOKEN = re.compile(r"registration token|installation id|\bfid\b", re.IGNORECASE)
_TOKEN_FIELDS = frozenset({"message.token", "message.fid", "message.registration_token"})

#: What only FCM has, by its own names. Left out on purpose: whom it is for, and what it says.
_OWN_OPTIONS: Mapping[str, type] = {
    "android": dict,
    "apns": dict,
    "webpush": dict,
    "fcm_options": dict,
    "validate_only": bool,
}
_BASE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+(/[!-~]*)?")
_LONGEST_ANSWER = 64 * 1024
_LONGEST_ID = 255
_KEEPALIVE_SECONDS = 15.0
#: A delivery may go to fifty devices, and hundreds of deliveries are in flight.
_MOST_CALLS = 1000
_SHARE_OF_TIMEOUT = 0.95
_SHARE_FOR_CONNECT = 0.5
_encoder = MessageEncoder()


class FcmProvider(NotificationProvider):
    """Sends push messages to Android devices, browsers, and iOS apps that use Firebase."""

    name: ClassVar[str] = "fcm"
    channel: ClassVar[Channel] = Channel.PUSH
    own_options: ClassVar[frozenset[str]] = frozenset(_OWN_OPTIONS)

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        token: AccessToken | None = None,
    ) -> None:
        """Connects to nothing yet.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        account = service_account("FCM_SERVER_KEY", settings.fcm_server_key)
        if not _BASE_URL.fullmatch(settings.fcm_base_url):
            raise Refused("FCM_BASE_URL", "must be an http or https URL")
        self._url = URL(f"{settings.fcm_base_url.rstrip('/')}/v1/projects/{account['project_id']}/messages:send")
        self._total_seconds = settings.provider_timeout_seconds * _SHARE_OF_TIMEOUT
        self._clock = clock
        self._token = token or AccessToken(fetcher("FCM_SERVER_KEY", account))
        self._session: aiohttp.ClientSession | None = None
        self._alerted_at: dict[str, float] = {}
        self.most_calls = _MOST_CALLS

    async def open(self) -> None:
        """Makes the session; connections come with the first sends."""
        if self._session is None:
            self._session = _session(self._total_seconds)

    async def close(self) -> None:
        """Closes all connections."""
        await self._token.close()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One POST, to the first FCM device of the delivery."""
        options = own_options(delivery, _OWN_OPTIONS, provider=self.name)
        device = device_of(delivery, "fcm")
        if device is None:
            return _result(Outcome.PERMANENT, "no fcm device", reach=Reach.NOT_ASKED)
        try:
            if push.is_too_large(push.fcm_counted(delivery)):
                return _result(Outcome.PERMANENT, "too_large", reach=Reach.NOT_ASKED)
            body = orjson.dumps(payload(delivery, device, options, now=self._clock()))
        except Refused as error:
            return _result(Outcome.PERMANENT, f"refused {error.field}", reach=Reach.NOT_ASKED)
        return await self._post(body)

    async def _post(self, body: bytes) -> DeliveryResult:
        await self.open()
        assert self._session is not None
        try:
            token = self._token.current()
            if token is None:
                async with asyncio.timeout(self._total_seconds * _SHARE_FOR_CONNECT):
                    token = await self._token.get()
        except (GoogleAuthError, OSError) as error:
            return _no_token(error)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                result = _answered(response.status, response.headers, await _read(response), now=self._clock())
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _failed(error)
        if result.outcome is Outcome.BROKEN and result.reason == "401":
            self._token.forget(token)
        elif result.reason in _ALERTS:
            self._alert(result.reason)
        return result

    def _alert(self, reason: str) -> None:
        """Counted each time, and said once a minute."""
        PROVIDER_ALERTS.labels(self.name, reason).inc()
        now = time.monotonic()
        if now - self._alerted_at.get(reason, -_ALERT_LOG_SECONDS) >= _ALERT_LOG_SECONDS:
            self._alerted_at[reason] = now
            log.error("provider needs mending", provider=self.name, reason=reason)


def _session(total_seconds: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ttl_dns_cache=60),
        timeout=aiohttp.ClientTimeout(
            total=total_seconds, connect=total_seconds * _SHARE_FOR_CONNECT, ceil_threshold=60
        ),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def payload(delivery: Delivery, device: Device, options: Mapping[str, Any], *, now: datetime) -> dict[str, Any]:
    """The JSON of messages:send: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages/send.

    Raises:
        Refused: naming the field, when it can't be sent.
    """
    message = _message(delivery, now)
    # Set here and not by the constructor, which warns of each token. Tokens are going out of use, FIDs come in.
    if device.kind == "fid":
        message.fid = device.token
    else:
        message.token = device.token
    try:
        encoded: dict[str, Any] = _encoder.default(message)
    except ValueError:
        raise Refused("content", "is refused by FCM's encoder") from None
    # The encoder spells it in lower case, the API's document in upper case.
    encoded.setdefault("android", {})["priority"] = "NORMAL" if push.is_data_only(delivery.content) else "HIGH"
    own = {name: value for name, value in options.items() if name != "validate_only"}
    body: dict[str, Any] = {"message": laid_over(encoded, own) if own else encoded}
    if options.get("validate_only"):
        body["validate_only"] = True
    return body


def _message(delivery: Delivery, now: datetime) -> messaging.Message:
    content, options = delivery.content, delivery.options.push
    is_silent = push.is_data_only(content)
    collapse_key = options.collapse_key if options is not None else None
    ttl, badge = push.ttl_seconds(delivery, now), push.badge(delivery)
    shown = None
    if not is_silent:
        image = push.web_link(content, "image_url")
        shown = messaging.Notification(content.get("title") or None, content.get("body") or None, image)
    count = None if is_silent or badge is None else messaging.AndroidNotification(notification_count=badge)
    return messaging.Message(
        data=push.app_data(delivery),
        notification=shown,
        android=messaging.AndroidConfig(collapse_key=collapse_key, ttl=ttl, notification=count),
        apns=_apns(is_silent, badge, collapse_key, ttl, now),
        webpush=_webpush(None if is_silent else content.get("action_url"), ttl),
    )


def _apns(
    is_silent: bool, badge: int | None, collapse_key: str | None, ttl: int | None, now: datetime
) -> messaging.APNSConfig:
    """For the iOS devices that are reached by FCM."""
    headers = {"apns-priority": "5" if is_silent else "10"}
    if collapse_key:
        headers["apns-collapse-id"] = collapse_key
    if ttl is not None:
        headers["apns-expiration"] = str(int(now.timestamp()) + ttl if ttl else 0)
    aps = messaging.Aps(
        badge=badge, sound=None if is_silent else "default", content_available=True if is_silent else None
    )
    return messaging.APNSConfig(headers=headers, payload=messaging.APNSPayload(aps))


def _webpush(link: str | None, ttl: int | None) -> messaging.WebpushConfig | None:
    """For browsers, which follow https links only."""
    options = messaging.WebpushFCMOptions(link) if link and link.startswith("https://") else None
    if options is None and ttl is None:
        return None
    return messaging.WebpushConfig(headers=None if ttl is None else {"TTL": str(ttl)}, fcm_options=options)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """The answer's text. One that breaks off is no answer when it said yes; a no is a no however it ends."""
    answer = b""
    try:
        while len(answer) < _LONGEST_ANSWER and (chunk := await response.content.readany()):
            answer += chunk
    except (aiohttp.ClientError, OSError):
        if response.ok:
            raise
    return answer


def _answered(status: int, headers: Mapping[str, str], answer: bytes, *, now: datetime) -> DeliveryResult:
    decoded = _decoded(answer)
    if 200 <= status < 300:
        return _result(Outcome.SENT, None, message_id=_message_id(decoded))
    error = decoded.get("error")
    error = error if isinstance(error, dict) else {}
    code = _code(error)
    if code == "INVALID_ARGUMENT" and _is_about_token(error):
        return _result(Outcome.TARGET_DEAD, "INVALID_ARGUMENT token")
    outcome = _OUTCOMES.get(code or "") or _OUTCOMES_BY_STATUS.get(status) or _OUTCOMES_BY_CLASS.get(status // 100)
    outcome = outcome or Outcome.RETRY
    is_away = status in _AWAY and not _is_about_one_device(error)
    return _result(
        outcome,
        code or str(status),
        wait=asked_wait(headers, now=now) if outcome is Outcome.RETRY else None,
        reach=Reach.AWAY if is_away else Reach.ANSWERED,
    )


def _decoded(answer: bytes) -> dict[str, Any]:
    """The answer's JSON; empty for a gateway's page."""
    try:
        found = orjson.loads(answer)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _details(error: Mapping[str, Any], kind: str) -> list[dict[str, Any]]:
    details = error.get("details")
    found = [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
    return [detail for detail in found if str(detail.get("@type", "")).endswith(kind)]


def _code(error: Mapping[str, Any]) -> str | None:
    """FCM's own code; without one, the RPC's status where that is as clear."""
    for detail in _details(error, "FcmError"):
        if detail.get("errorCode") in _OUTCOMES:
            return str(detail["errorCode"])
    status = error.get("status")
    return str(status) if status in ("INVALID_ARGUMENT", "UNAVAILABLE", "INTERNAL") else None


def _is_about_token(error: Mapping[str, Any]) -> bool:
    """The same code is given for a message that is too big, whose device is well."""
    violations = [
        violation
        for detail in _details(error, "BadRequest")
        for violation in (detail.get("fieldViolations") or [])
        if isinstance(violation, dict)
    ]
    if violations:
        return any(violation.get("field") in _TOKEN_FIELDS for violation in violations)
    return _ABOUT_TOKEN.search(str(error.get("message", ""))) is not None


def _is_about_one_device(error: Mapping[str, Any]) -> bool:
    """`Device message rate exceeded`: everybody else is served."""
    return "device message rate" in str(error.get("message", "")).lower()


def _message_id(answer: Mapping[str, Any]) -> str | None:
    value = answer.get("name")
    if not isinstance(value, str) or not value.isascii() or not value.isprintable():
        return None
    return value if 0 < len(value) <= _LONGEST_ID else None


def _no_token(error: Exception) -> DeliveryResult:
    """Nothing was sent; the error's text is never repeated."""
    if isinstance(error, RefreshError) and not error.retryable:
        return _result(Outcome.BROKEN, "service account refused")
    return _result(Outcome.RETRY, "no access token", reach=Reach.AWAY)


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
        provider=FcmProvider.name,
        reason=reason,
        provider_message_id=message_id,
        retry_after=wait,
        reach=reach,
    )
