"""APNs over HTTP/2: one call per device, by a client certificate or by a signed token.

The delivery id travels in the payload, and in `apns-id` together with the device: the same for each repeat.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import uuid5

import httpcore2
import httpx2
import orjson

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.requests import Device
from models.settings import Settings
from streams.domain import push
from streams.providers.apns_connections import STREAMS, ApnsConnections, Connection
from streams.providers.apns_token import ApnsToken
from streams.providers.base import DeliveryResult, NotificationProvider, Reach
from streams.providers.push_options import device_of, laid_over, own_options
from streams.providers.retry_after import asked_wait

#: By the `reason` of an answer:
#: https://developer.apple.com/documentation/usernotifications/handling-notification-responses-from-apns
_OUTCOMES = {
    # The device.
    "Unregistered": Outcome.TARGET_DEAD,
    "ExpiredToken": Outcome.TARGET_DEAD,
    "BadDeviceToken": Outcome.TARGET_DEAD,
    # Ours may be the wrong topic: it would cost all devices.
    "DeviceTokenNotForTopic": Outcome.PERMANENT,
    # Of this device alone.
    "TooManyRequests": Outcome.RETRY,
    # The server.
    "IdleTimeout": Outcome.RETRY,
    "InternalServerError": Outcome.RETRY,
    "ServiceUnavailable": Outcome.RETRY,
    "Shutdown": Outcome.RETRY,
    # The account.
    "BadCertificate": Outcome.BROKEN,
    "BadCertificateEnvironment": Outcome.BROKEN,
    "ExpiredProviderToken": Outcome.BROKEN,
    "Forbidden": Outcome.BROKEN,
    "InvalidProviderToken": Outcome.BROKEN,
    "MissingProviderToken": Outcome.BROKEN,
    "UnrelatedKeyIdInToken": Outcome.BROKEN,
    "BadEnvironmentKeyIdInToken": Outcome.BROKEN,
    "TooManyProviderTokenUpdates": Outcome.BROKEN,
    "BadTopic": Outcome.BROKEN,
    "MissingTopic": Outcome.BROKEN,
    "TopicDisallowed": Outcome.BROKEN,
    "BadPath": Outcome.BROKEN,
    "MethodNotAllowed": Outcome.BROKEN,
}
#: By the status where the reason is none of these. A redirect is not followed: it would carry the token elsewhere.
_OUTCOMES_BY_STATUS = {
    400: Outcome.PERMANENT,
    403: Outcome.BROKEN,
    404: Outcome.BROKEN,
    405: Outcome.BROKEN,
    410: Outcome.TARGET_DEAD,
    413: Outcome.PERMANENT,
    429: Outcome.RETRY,
}
_OUTCOMES_BY_CLASS = {2: Outcome.SENT, 3: Outcome.BROKEN, 4: Outcome.PERMANENT, 5: Outcome.RETRY}
_AWAY = frozenset({502, 503, 504})
_EXPIRED = "ExpiredProviderToken"

#: What only APNs has: the keys of `aps` beside alert and badge.
_OWN_OPTIONS: Mapping[str, type] = {"aps": dict}
_OWN_APS = frozenset(
    {
        "sound",
        "category",
        "thread-id",
        "mutable-content",
        "target-content-id",
        "interruption-level",
        "relevance-score",
        "filter-criteria",
    }
)
_BASE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+/?")
#: Apple's are hexadecimal, and of no fixed length.
_TOKEN = re.compile(r"[A-Za-z0-9_-]{1,400}")
_REASON = re.compile(r"[A-Za-z]{1,40}")
_LONGEST_COLLAPSE_ID = 64
_LONGEST_ANSWER = 64 * 1024
_REFUSED_STREAM = 7
_SHARE_OF_TIMEOUT = 0.95
_SHARE_FOR_CONNECT = 0.5
#: Connections for as many calls as the lanes ever have in flight.
_CONNECTIONS = 8


class ApnsProvider(NotificationProvider):
    """Sends push messages to iOS and macOS devices."""

    name: ClassVar[str] = "apns"
    channel: ClassVar[Channel] = Channel.PUSH
    own_options: ClassVar[frozenset[str]] = frozenset(_OWN_OPTIONS)

    def __init__(
        self,
        settings: Settings,
        *,
        tls_context: ssl.SSLContext | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connects to nothing yet. `tls_context`: one that trusts others than the system does.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        if not _BASE_URL.fullmatch(settings.apns_base_url):
            raise Refused("APNS_BASE_URL", "must be an http or https URL")
        context = tls_context or ssl.create_default_context()
        self._token: ApnsToken | None = None
        if settings.apns_cert_path:
            _load_certificate(context, settings.apns_cert_path)
        elif settings.apns_key_path:
            self._token = ApnsToken.of(settings, clock=lambda: clock().timestamp())
        else:
            raise Refused("APNS_CERT_PATH", "is not set, and neither is APNS_KEY_PATH")
        self._base_url = f"{settings.apns_base_url.rstrip('/')}/3/device/"
        self._topic = settings.apns_topic
        self._clock = clock
        self._total_seconds = settings.provider_timeout_seconds * _SHARE_OF_TIMEOUT
        self._connections = ApnsConnections(context, connect_seconds=self._total_seconds * _SHARE_FOR_CONNECT)
        self.most_calls = _CONNECTIONS * STREAMS

    async def close(self) -> None:
        """Closes all connections."""
        await self._connections.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One request, to the first APNs device of the delivery."""
        options = own_options(delivery, _OWN_OPTIONS, provider=self.name)
        device = device_of(delivery, "apns")
        if device is None:
            return _result(Outcome.PERMANENT, "no apns device", reach=Reach.NOT_ASKED)
        if not _TOKEN.fullmatch(device.token):
            # It would be a path of our making; no device of Apple's is called so.
            return _result(Outcome.TARGET_DEAD, "BadDeviceToken", reach=Reach.NOT_ASKED)
        try:
            body = orjson.dumps(payload(delivery, options))
        except Refused as error:
            return _result(Outcome.PERMANENT, f"refused {error.field}", reach=Reach.NOT_ASKED)
        if len(body) > push.MAX_PAYLOAD_BYTES:
            return _result(Outcome.PERMANENT, "too_large", reach=Reach.NOT_ASKED)
        return await self._deliver(device, headers(delivery, device, topic=self._topic, now=self._clock()), body)

    async def _deliver(self, device: Device, fields: dict[str, str], body: bytes) -> DeliveryResult:
        """Once more where our token was refused for its age and there is a new one."""
        result, used = await self._post(device, fields, body)
        if result.reason == _EXPIRED and self._token is not None and self._token.renew(used):
            result, _ = await self._post(device, fields, body)
        return result

    async def _post(self, device: Device, fields: dict[str, str], body: bytes) -> tuple[DeliveryResult, str]:
        used = ""
        if self._token is not None:
            used = self._token.get()
            fields["authorization"] = f"bearer {used}"
        async with self._connections.one() as connection:
            try:
                async with asyncio.timeout(self._total_seconds):
                    url = self._base_url + device.token
                    request = connection.client.build_request("POST", url, content=body, headers=fields)
                    response = await connection.client.send(request, stream=True)
                    answer = await self._read(connection, response)
                    return _answered(response.status_code, response.headers, answer, now=self._clock()), used
            except BaseException as error:
                # Nobody knows what is left of its stream, nor whether the next would get through.
                self._connections.retire(connection)
                if isinstance(error, httpx2.HTTPError | OSError):  # TimeoutError is an OSError
                    return _failed(error), used
                raise

    async def _read(self, connection: Connection, response: httpx2.Response) -> bytes:
        """The reason of a no. The status is Apple's word, however the rest of its answer ends: h2 takes nothing more
        from a connection once the server has said that it will end it."""
        try:
            return await response.aread()
        except httpx2.HTTPError:
            self._connections.retire(connection)
            return b""


def _load_certificate(context: ssl.SSLContext, path: str) -> None:
    try:
        # Without a password the library would ask whoever sits at the terminal.
        context.load_cert_chain(path, password=lambda: b"")
    except (OSError, ssl.SSLError, ValueError):
        raise Refused("APNS_CERT_PATH", "must be a PEM file with a certificate and its unencrypted key") from None


def payload(delivery: Delivery, options: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON of a message.

    Raises:
        Refused: naming the field, when it can't be sent.
    """
    own = options.get("aps", {})
    if not _OWN_APS.issuperset(own):
        raise Refused("options.provider.aps", f"takes {', '.join(sorted(_OWN_APS))}")
    made = push.apns_payload(delivery)
    return laid_over(made, {"aps": own}) if own else made


def headers(delivery: Delivery, device: Device, *, topic: str | None, now: datetime) -> dict[str, str]:
    """https://developer.apple.com/documentation/usernotifications/sending-notification-requests-to-apns."""
    is_silent = push.is_data_only(delivery.content)
    fields = {
        "apns-id": str(uuid5(delivery.delivery_id, f"apns:{device.token}")),
        "apns-push-type": "background" if is_silent else "alert",
        "apns-priority": "5" if is_silent else "10",
    }
    if topic:
        fields["apns-topic"] = topic
    if (ttl := push.ttl_seconds(delivery, now)) is not None:
        # 0: now or never.
        fields["apns-expiration"] = str(int(now.timestamp()) + ttl if ttl else 0)
    key = delivery.options.push.collapse_key if delivery.options.push is not None else None
    if key:
        fields["apns-collapse-id"] = collapse_id(key)
    return fields


def collapse_id(key: str) -> str:
    """A key of any characters as a header takes it: what is equal stays equal, in 64 bytes."""
    if key.isascii() and key.isprintable() and key == key.strip() and len(key) <= _LONGEST_COLLAPSE_ID:
        return key
    return hashlib.sha256(key.encode()).hexdigest()


def _answered(status: int, fields: Mapping[str, str], answer: bytes, *, now: datetime) -> DeliveryResult:
    if status == 200:
        return _result(Outcome.SENT, None, message_id=_message_id(fields))
    said = _decoded(answer)
    reason = said.get("reason")
    reason = reason if isinstance(reason, str) and _REASON.fullmatch(reason) else None
    outcome = _OUTCOMES.get(reason or "") or _OUTCOMES_BY_STATUS.get(status)
    outcome = outcome or _OUTCOMES_BY_CLASS.get(status // 100, Outcome.RETRY)
    return _result(
        outcome,
        reason or str(status),
        wait=asked_wait(fields, now=now) if outcome is Outcome.RETRY and status != 429 else None,
        reach=Reach.AWAY if status in _AWAY else Reach.ANSWERED,
        dead_since=_moment(said.get("timestamp")) if outcome is Outcome.TARGET_DEAD else None,
    )


def _decoded(answer: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(answer[:_LONGEST_ANSWER])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _moment(milliseconds: object) -> datetime | None:
    """When the device went, by Apple's word."""
    if isinstance(milliseconds, int) and not isinstance(milliseconds, bool):
        with suppress(ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(milliseconds / 1000, UTC)
    return None


def _message_id(fields: Mapping[str, str]) -> str | None:
    value = fields.get("apns-id", "")
    return value if value.isascii() and value.isprintable() and 0 < len(value) <= 255 else None


def _failed(error: Exception) -> DeliveryResult:
    """Without an answer: whether the request was written decides. The error's text is never repeated."""
    if isinstance(error, httpx2.ConnectError):
        if "CERTIFICATE" in str(error).upper():
            return _result(Outcome.BROKEN, "certificate refused")
        return _result(Outcome.RETRY, "unreachable", reach=Reach.AWAY)
    if isinstance(error, httpx2.ConnectTimeout | httpx2.PoolTimeout):
        return _result(Outcome.RETRY, "connect timeout", reach=Reach.AWAY)
    if isinstance(error, httpx2.RemoteProtocolError) and _was_refused(error):
        return _result(Outcome.RETRY, "stream refused", reach=Reach.AWAY)
    reason = "timeout" if isinstance(error, TimeoutError | httpx2.TimeoutException) else "disconnected"
    return _result(Outcome.AMBIGUOUS, reason, reach=Reach.AWAY)


def _was_refused(error: Exception) -> bool:
    """REFUSED_STREAM: by RFC 9113 section 8.7 nothing was done with the request."""
    cause = error.__cause__ or error.__context__
    event = cause.args[0] if isinstance(cause, httpcore2.RemoteProtocolError) and cause.args else None
    return getattr(event, "error_code", None) == _REFUSED_STREAM


def _result(
    outcome: Outcome,
    reason: str | None,
    *,
    message_id: str | None = None,
    wait: timedelta | None = None,
    reach: Reach = Reach.ANSWERED,
    dead_since: datetime | None = None,
) -> DeliveryResult:
    return DeliveryResult(
        outcome=outcome,
        provider=ApnsProvider.name,
        reason=reason,
        provider_message_id=message_id,
        retry_after=wait,
        reach=reach,
        dead_since=dead_since,
    )
