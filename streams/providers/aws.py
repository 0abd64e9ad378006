"""What both AWS services share: credentials, signed requests, and what AWS's errors mean.

aiobotocore's own client takes 650 µs CPU a call where bare aiohttp takes 90 (1,400 calls/s against 6,500, measured at
200 in flight). So the SDK finds the credentials and reads the errors, the request is signed by `aws_signing` and
sent by aiohttp; nothing retries.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from models.enums import Outcome
from models.errors import Refused, Unavailable
from models.settings import Settings
from streams.providers.aws_signing import Keys, Signer
from streams.providers.base import DeliveryResult, Reach
from streams.providers.retry_after import asked_wait

if TYPE_CHECKING:
    from streams.providers.aws_sdk import Credentials

#: Errors of all of AWS's services, by name without its ending `Exception`.
#: https://docs.aws.amazon.com/ses/latest/APIReference-V2/CommonErrors.html
#: https://docs.aws.amazon.com/sns/latest/api/CommonErrors.html
COMMON_OUTCOMES: Mapping[str, Outcome] = {
    "AccessDenied": Outcome.BROKEN,
    "AuthFailure": Outcome.BROKEN,
    "ExpiredToken": Outcome.BROKEN,
    "IncompleteSignature": Outcome.BROKEN,
    "InvalidClientTokenId": Outcome.BROKEN,
    "InvalidSignature": Outcome.BROKEN,
    "MissingAuthenticationToken": Outcome.BROKEN,
    "NotAuthorized": Outcome.BROKEN,
    "OptInRequired": Outcome.BROKEN,
    "RequestExpired": Outcome.BROKEN,  # our clock is wrong
    "RequestTimeTooSkewed": Outcome.BROKEN,
    "SignatureDoesNotMatch": Outcome.BROKEN,
    "SubscriptionRequired": Outcome.BROKEN,
    "UnknownOperation": Outcome.BROKEN,
    "UnrecognizedClient": Outcome.BROKEN,
    "InternalError": Outcome.RETRY,
    "InternalFailure": Outcome.RETRY,
    "LimitExceeded": Outcome.RETRY,
    "RequestAborted": Outcome.RETRY,
    "RequestTimeout": Outcome.RETRY,
    "RequestEntityTooLarge": Outcome.PERMANENT,
    "RequestLimitExceeded": Outcome.RETRY,
    "ServiceUnavailable": Outcome.RETRY,
    "Throttled": Outcome.RETRY,
    "Throttling": Outcome.RETRY,
    "TooManyRequests": Outcome.RETRY,
    "BadRequest": Outcome.PERMANENT,
    "Validation": Outcome.PERMANENT,
    "ValidationError": Outcome.PERMANENT,
}
#: Nobody is served now, whatever the status beside it.
_THROTTLES = frozenset(
    {"LimitExceeded", "RequestLimitExceeded", "ServiceUnavailable", "Throttled", "Throttling", "TooManyRequests"}
)
_AWAY = frozenset({429, 502, 503, 504})
#: For what no table names. Nothing is at this address, or it leads elsewhere: no message is to blame.
_BY_STATUS = {401: Outcome.BROKEN, 403: Outcome.BROKEN, 404: Outcome.BROKEN, 405: Outcome.BROKEN}
_BY_STATUS |= {408: Outcome.RETRY, 429: Outcome.RETRY}
_BY_CLASS = {3: Outcome.BROKEN, 4: Outcome.PERMANENT, 5: Outcome.RETRY}

_BASE_URL = re.compile(r"https?://[A-Za-z0-9.:\[\]_-]+/?")
_SHOWABLE = re.compile(r"[A-Za-z][A-Za-z0-9._]{0,60}")
_LONGEST_ANSWER = 64 * 1024
_KEEPALIVE_SECONDS = 15.0
#: From here on hashing takes milliseconds, which others would wait for.
_LARGE_BODY = 256 * 1024
#: Ours ends before the lane's own limit does, so that the outcome is decided here, where it is known what was sent.
_SHARE_OF_TIMEOUT = 0.95
_SHARE_FOR_CONNECT = 0.5
_NOTHING_SECONDS = 0.02
#: Keys that end are renewed by the SDK minutes before: it need not be asked for each call.
_KEYS_SECONDS = 2.0


@dataclass(slots=True, kw_only=True)
class Ending:
    """How one call ended; a provider puts its name to it by `result`."""

    outcome: Outcome
    reason: str | None = None
    wait: timedelta | None = None
    reach: Reach = Reach.ANSWERED
    #: Of a yes.
    body: bytes = b""
    #: AWS's name of the error without its ending, and its words, which may hold addresses: to be read, never shown.
    error: str = ""
    text: str = field(default="", repr=False)

    def result(self, provider: str, *, message_id: str | None = None) -> DeliveryResult:
        """The same as a delivery's result."""
        return DeliveryResult(
            outcome=self.outcome,
            provider=provider,
            provider_message_id=message_id,
            reason=self.reason,
            retry_after=self.wait,
            reach=self.reach,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """One of AWS's services, as its API reference has it."""

    #: The first part of its hosts' names, as in `email.us-east-1.amazonaws.com`.
    endpoint: str
    #: Its name in signatures.
    signing_name: str
    #: How it writes errors: `rest-json` or `query`.
    protocol: str
    content_type: str
    #: What its own errors mean, beside those of all services.
    outcomes: Mapping[str, Outcome]


class AwsApi:
    """Calls one service in one region; connections stay open. Safe for many calls at a time."""

    def __init__(
        self,
        settings: Settings,
        service: Service,
        *,
        region: str | None,
        region_setting: str,
        credentials: Credentials | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connects to nothing yet; `credentials` is for tests.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        if not region:
            raise Refused(region_setting, "is not set")
        self._base = URL(_base_url(settings, service, region, region_setting))
        self._signer = Signer(service=service.signing_name, region=region, host=_host(self._base))
        self._service = service
        self._outcomes = {**COMMON_OUTCOMES, **service.outcomes}
        self._timeout = settings.provider_timeout_seconds * _SHARE_OF_TIMEOUT
        self._client_timeout = _client_timeout(self._timeout)
        self._given = credentials
        self._credentials = credentials
        self._finding: asyncio.Task[Credentials] | None = None
        self._keys: Keys | None = None
        self._keys_end = 0.0
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def open(self) -> None:
        """Makes the session; connections come with the first calls."""
        if self._session is None:
            self._session = _session()

    async def close(self) -> None:
        """Closes all connections."""
        if self._finding is not None:
            self._finding.cancel()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def post(self, path: str, body: bytes, *, gone: float = 0.0) -> Ending:
        """One signed POST; `path` is always the same few. `gone` seconds of the call's time are over already."""
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = self._base.join(URL(path, encoded=True))
        return await self._call("POST", url, body, gone=gone)

    async def get(self, path: str) -> Ending:
        """One signed GET."""
        return await self._call("GET", self._base.join(URL(path, encoded=True)), b"")

    async def _call(self, method: str, url: URL, body: bytes, *, gone: float = 0.0) -> Ending:
        await self.open()
        assert self._session is not None
        session = self._session
        now = time.monotonic()
        keys = self._keys
        if now >= self._keys_end:
            keys = await self._renewed_keys()
            gone += time.monotonic() - now
        if keys is None:
            return Ending(outcome=Outcome.BROKEN, reason="no credentials")
        headers = self._signer.headers(
            keys,
            method=method,
            path=url.raw_path,
            content_type=self._service.content_type,
            digest=_digest(body) if len(body) <= _LARGE_BODY else await asyncio.to_thread(_digest, body),
            at=self._clock(),
        )
        try:
            async with session.request(
                method, url, data=_data(body), headers=headers, allow_redirects=False, timeout=self._timeout_left(gone)
            ) as response:
                return self._answered(response.status, response.headers, await _read(response))
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            return _failed(error)

    def _timeout_left(self, gone: float) -> aiohttp.ClientTimeout:
        return self._client_timeout if gone < _NOTHING_SECONDS else _client_timeout(max(0.01, self._timeout - gone))

    async def _renewed_keys(self) -> Keys | None:
        """Those of now, good for some seconds; None when they can't be had."""
        try:
            async with asyncio.timeout(self._timeout * _SHARE_FOR_CONNECT):
                self._keys = await self._found_keys()
        except (Unavailable, TimeoutError):
            return None
        self._keys_end = time.monotonic() + _KEYS_SECONDS
        return self._keys

    async def _found_keys(self) -> Keys:
        """Only one of many calls looks for credentials; the others wait for what it finds."""
        from streams.providers.aws_sdk import find_credentials, keys_of  # noqa: PLC0415  takes 0.25 s

        if self._credentials is None:
            if self._finding is None:
                self._finding = asyncio.create_task(find_credentials())
                self._finding.add_done_callback(self._found)
            self._credentials = await asyncio.shield(self._finding)
        return await keys_of(self._credentials)

    def _found(self, finding: asyncio.Task[Credentials]) -> None:
        self._finding = None
        if not finding.cancelled():
            finding.exception()  # taken note of, though whoever waited may be gone

    def _answered(self, status: int, headers: Mapping[str, str], body: bytes) -> Ending:
        if 200 <= status < 300:
            return Ending(outcome=Outcome.SENT, body=body)
        from streams.providers.aws_sdk import read_error  # noqa: PLC0415  takes 0.25 s

        found = read_error(self._service.protocol, status, headers, body)
        name = found.code.removesuffix("Exception")
        outcome = self._outcomes.get(name) or _BY_STATUS.get(status) or _BY_CLASS.get(status // 100, Outcome.RETRY)
        if outcome is Outcome.BROKEN:
            # Perhaps they were changed where they are kept: the next call looks again.
            self._credentials, self._keys_end = self._given, 0.0
        return Ending(
            outcome=outcome,
            reason=found.code if _SHOWABLE.fullmatch(found.code) else str(status),
            wait=asked_wait(headers, now=self._clock()) if outcome is Outcome.RETRY else None,
            reach=Reach.AWAY if status in _AWAY or name in _THROTTLES else Reach.ANSWERED,
            error=name,
            text=found.text,
        )


def _base_url(settings: Settings, service: Service, region: str, region_setting: str) -> str:
    from streams.providers.aws_sdk import dns_suffix  # noqa: PLC0415  takes 0.25 s

    suffix = dns_suffix(region)
    if suffix is None:
        raise Refused(region_setting, "is no region of AWS")
    if settings.aws_endpoint_url is None:
        return f"https://{service.endpoint}.{region}.{suffix}/"
    if not _BASE_URL.fullmatch(settings.aws_endpoint_url):
        raise Refused("AWS_ENDPOINT_URL", "must be an http or https URL without a path")
    return settings.aws_endpoint_url.rstrip("/") + "/"


def _host(url: URL) -> str:
    host = url.host_subcomponent or ""
    return host if url.is_default_port() else f"{host}:{url.port}"


def _client_timeout(total: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=total, connect=total * _SHARE_FOR_CONNECT, ceil_threshold=60)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # The lane's slots are the limit on calls; a second one here would only hide them in a queue.
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_KEEPALIVE_SECONDS, ttl_dns_cache=60),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("Accept", "Accept-Encoding"),
    )


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def _data(body: bytes) -> bytes | io.BytesIO | None:
    """A large body is written in pieces."""
    return io.BytesIO(body) if len(body) > _LARGE_BODY else body or None


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


def _failed(error: Exception) -> Ending:
    """Without an answer: whether the request was written decides. The error's text is never repeated."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return Ending(outcome=Outcome.BROKEN, reason="certificate refused")
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Ending(outcome=Outcome.RETRY, reason="connect timeout", reach=Reach.AWAY)
    if isinstance(error, aiohttp.ClientConnectorError):
        return Ending(outcome=Outcome.RETRY, reason="unreachable", reach=Reach.AWAY)
    reason = "timeout" if isinstance(error, TimeoutError) else "disconnected"
    return Ending(outcome=Outcome.AMBIGUOUS, reason=reason, reach=Reach.AWAY)
