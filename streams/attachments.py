"""Fetches the files that e-mails refer to, for the e-mail providers, right before a message goes out.

The address is a stranger's, so it decides nothing: only the public internet is dialled (or `ATTACHMENT_HOSTS`), each
resolved address is looked at before it is, redirects are followed one by one under the same rules, nothing of ours is
sent along, and bytes and seconds are counted. A file that many messages have is fetched once: it is kept for a minute.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from weakref import WeakValueDictionary

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from models.deliveries import Delivery
from models.errors import Refused
from models.requests import Attachment
from models.settings import Settings
from streams.domain.attachments import FIELD, Content, File, check_attachments, checked_url, file_of
from streams.domain.public_addresses import is_public

_FETCH_SECONDS = 5.0
#: Of a provider call's time: what is left must do for the call itself.
_SHARE_OF_CALL = 0.5
_MOST_REDIRECTS = 3
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Later the same address may answer: too early, too many, and all of 500 to 599.
_PASSING = frozenset({408, 425, 429})
_PORTS = frozenset({80, 443, 8080, 8443})
_FRESH_SECONDS = 60.0
#: A bulk must not ask a server that is down once per message.
_TROUBLE_FRESH_SECONDS = 3.0
#: A host that doesn't answer is not waited for by one message after the other, each in a provider's slot.
_AWAY_SECONDS = 10.0
_MOST_HOSTS_AWAY = 1_000
_FETCHES_AT_ONCE = 16
_FETCHES_PER_HOST = 6
_MOST_KEPT = 200
#: Of all messages with files that are being sent; each costs about five times its files.
_ROOM_BYTES = 32 * 1024 * 1024
_LARGE = 256 * 1024


class AttachmentUnavailable(Exception):
    """The file can't be had now: a later attempt may get it. Says nothing of the provider."""


class AttachmentRefused(Refused):
    """The file will never be sent."""


@dataclass(frozen=True, slots=True)
class _Trouble:
    """Why there is no file."""

    reason: str
    is_passing: bool = False


_UNAVAILABLE = _Trouble("unavailable", is_passing=True)


class _NotPublic(OSError):
    """An address that is not to be dialled."""


class _PublicResolver(AbstractResolver):
    """What is dialled is what was looked at: no second resolution comes between."""

    def __init__(self, inner: AbstractResolver) -> None:
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of a host, if all of them are public."""
        found = await self._inner.resolve(host, port, family)
        if not all(is_public(one["host"]) for one in found):
            raise _NotPublic("not a public address")
        return found

    async def close(self) -> None:
        """Lets go of the inner one."""
        await self._inner.close()


def public_socket(address: tuple[int, int, int, str, tuple[object, ...]]) -> socket.socket:
    """The last look, at the very address of the connection."""
    family, kind, protocol, _, target = address
    if not is_public(str(target[0])):
        raise _NotPublic("not a public address")
    return socket.socket(family, kind, protocol)


class Attachments:
    """One for all e-mail providers of a process. Connects to nothing before the first file."""

    def __init__(
        self,
        settings: Settings,
        *,
        resolver: AbstractResolver | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limit = settings.attachment_bytes
        self._hosts = frozenset(host.lower() for host in settings.attachment_hosts)
        self._seconds = min(_FETCH_SECONDS, settings.provider_timeout_seconds * _SHARE_OF_CALL)
        self._resolver = resolver
        self._clock = clock
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        self._flights: dict[str, asyncio.Task[Content | _Trouble]] = {}
        self._kept: OrderedDict[str, tuple[float, Content | _Trouble]] = OrderedDict()
        self._kept_bytes = 0
        #: Hosts that didn't answer, and until when they aren't asked again.
        self._away: dict[str, float] = {}
        self._slots = asyncio.Semaphore(_FETCHES_AT_ONCE)
        #: A host that hangs holds up its own files only.
        self._host_slots: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()
        self._room = _ROOM_BYTES
        self._room_changed = asyncio.Condition()

    async def close(self) -> None:
        """Ends all fetches and connections; a later file opens new ones."""
        flights, self._flights = list(self._flights.values()), {}
        for flight in flights:
            flight.cancel()
        await asyncio.gather(*flights, return_exceptions=True)
        sessions, self._sessions = list(self._sessions.values()), {}
        for session in sessions:
            await session.close()

    @asynccontextmanager
    async def of(self, delivery: Delivery) -> AsyncIterator[tuple[File, ...]]:
        """The files of a delivery, while it is being sent.

        Raises:
            AttachmentRefused: naming the attachment: gone, too large, of a type or at an address that isn't taken.
            AttachmentUnavailable: when its host is away, slow or in trouble.
        """
        email = delivery.options.email
        if email is None or not email.attachments:
            yield ()
            return
        try:
            async with asyncio.timeout(self._seconds):
                files = await self._files(email.attachments)
                size = min(sum(file.content.size for file in files), _ROOM_BYTES)
                await self._take_room(size)
        except TimeoutError:
            raise AttachmentUnavailable from None
        try:
            yield files
        finally:
            self._room += size
            async with self._room_changed:
                self._room_changed.notify_all()

    async def _take_room(self, size: int) -> None:
        async with self._room_changed:
            await self._room_changed.wait_for(lambda: self._room >= size)
            self._room -= size

    async def _files(self, attachments: Sequence[Attachment]) -> tuple[File, ...]:
        try:
            check_attachments(attachments)
        except Refused as error:
            raise AttachmentRefused(error.field, error.reason) from None
        found = await asyncio.gather(*(self._content(one.url or "") for one in attachments))
        files = []
        left = self._limit
        for index, (attachment, content) in enumerate(zip(attachments, found, strict=True)):
            field = f"{FIELD}.{index}"
            if isinstance(content, _Trouble):
                if content.is_passing:
                    raise AttachmentUnavailable
                raise AttachmentRefused(field, content.reason)
            left -= content.size
            if left < 0:
                raise AttachmentRefused(field, "too large")
            try:
                files.append(file_of(field, attachment.filename, content))
            except Refused as error:
                raise AttachmentRefused(error.field, error.reason) from None
        return tuple(files)

    # -- one fetch for all who want the same

    async def _content(self, url: str) -> Content | _Trouble:
        kept = self._kept.get(url)
        if kept is not None and self._clock() < kept[0]:
            self._kept.move_to_end(url)
            return kept[1]
        flight = self._flights.get(url)
        if flight is None and self._is_away(_host(url)):
            return _UNAVAILABLE
        if flight is None:
            flight = asyncio.create_task(self._fly(url))
            self._flights[url] = flight
        return await asyncio.shield(flight)

    async def _fly(self, url: str) -> Content | _Trouble:
        host = _host(url)
        slots = self._host_slots.setdefault(host, asyncio.Semaphore(_FETCHES_PER_HOST))
        try:
            async with slots, self._slots, asyncio.timeout(self._seconds):
                found = _UNAVAILABLE if self._is_away(host) else await self._fetch(url)
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            found = _trouble_of(error)
            if found.is_passing:
                self._note_away(host)
        finally:
            self._flights.pop(url, None)
        self._keep(url, found)
        return found

    def _is_away(self, host: str) -> bool:
        return self._clock() < self._away.get(host, 0.0)

    def _note_away(self, host: str) -> None:
        if len(self._away) >= _MOST_HOSTS_AWAY:
            self._away.clear()
        self._away[host] = self._clock() + _AWAY_SECONDS

    def _keep(self, url: str, found: Content | _Trouble) -> None:
        self._forget(url)
        fresh = _FRESH_SECONDS if isinstance(found, Content) else _TROUBLE_FRESH_SECONDS
        self._kept[url] = (self._clock() + fresh, found)
        self._kept_bytes += _size(found)
        while len(self._kept) > _MOST_KEPT or self._kept_bytes > 2 * self._limit:
            self._forget(next(iter(self._kept)))

    def _forget(self, url: str) -> None:
        kept = self._kept.pop(url, None)
        if kept is not None:
            self._kept_bytes -= _size(kept[1])

    # -- the fetch

    async def _fetch(self, text: str) -> Content | _Trouble:
        address = text
        for _ in range(1 + _MOST_REDIRECTS):
            try:
                url = checked_url("url", address)
            except Refused:
                return _Trouble("an address that is not fetched")
            is_trusted = self._is_trusted(url)
            if not is_trusted and not _may_be_dialled(url):
                return _Trouble("an address that is not fetched")
            session = self._session(is_trusted)
            async with session.get(url, allow_redirects=False) as response:
                if response.status not in _REDIRECTS:
                    return await self._taken(response)
                address = _joined(url, response.headers.get("Location", ""))
        return _Trouble("redirected too often")

    def _is_trusted(self, url: URL) -> bool:
        host = (url.host or "").lower()
        return host in self._hosts or f"{host}:{url.port}" in self._hosts

    async def _taken(self, response: aiohttp.ClientResponse) -> Content | _Trouble:
        trouble = self._trouble_with(response)
        if trouble is not None:
            return trouble
        data = bytearray()
        while chunk := await response.content.readany():
            data += chunk
            if len(data) > self._limit:
                return _Trouble("too large")
        if len(data) < _LARGE:
            return Content(bytes(data))
        return await asyncio.to_thread(_encoded, bytes(data))

    def _trouble_with(self, response: aiohttp.ClientResponse) -> _Trouble | None:
        if response.status in _PASSING or response.status >= 500:
            return _UNAVAILABLE
        if response.status != 200:
            return _Trouble("not found" if response.status in (404, 410) else f"its host answers {response.status}")
        if response.headers.get("Content-Encoding", "identity").lower() != "identity":
            return _Trouble("its host compresses it")
        return _Trouble("too large") if (response.content_length or 0) > self._limit else None

    def _session(self, is_trusted: bool) -> aiohttp.ClientSession:
        session = self._sessions.get(is_trusted)
        if session is None:
            session = self._sessions[is_trusted] = self._new_session(is_trusted)
        return session

    def _new_session(self, is_trusted: bool) -> aiohttp.ClientSession:
        resolver = self._resolver or aiohttp.ThreadedResolver()
        connector = aiohttp.TCPConnector(
            limit=_FETCHES_AT_ONCE,
            resolver=resolver if is_trusted else _PublicResolver(resolver),
            use_dns_cache=False,
            socket_factory=None if is_trusted else public_socket,
        )
        return aiohttp.ClientSession(
            connector=connector,
            timeout=aiohttp.ClientTimeout(total=_FETCH_SECONDS),
            headers={"User-Agent": "communication-service", "Accept": "*/*", "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )


def _host(url: str) -> str:
    """Host and port as they are written; two spellings are two hosts here."""
    return url.partition("//")[2].partition("/")[0].lower()


def _joined(url: URL, location: str) -> str:
    """Where a redirect leads; nothing that can be read leads nowhere."""
    try:
        return str(url.join(URL(location)))
    except ValueError:
        return ""


def _encoded(data: bytes) -> Content:
    """Away from the loop: a large file takes tens of milliseconds."""
    content = Content(data)
    _ = content.lines
    return content


def _size(found: Content | _Trouble) -> int:
    return found.size if isinstance(found, Content) else 0


def _may_be_dialled(url: URL) -> bool:
    """By its port, and by its host where that is an address: names are looked at when they are resolved."""
    host = url.raw_host or ""
    is_address = ":" in host or host.replace(".", "").isdigit()
    return url.port in _PORTS and (not is_address or is_public(host))


def _trouble_of(error: BaseException) -> _Trouble:
    """A refused address is final; everything else may pass."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, _NotPublic) or isinstance(getattr(seen, "os_error", None), _NotPublic):
            return _Trouble("an address that is not fetched")
        if isinstance(seen, aiohttp.InvalidURL):
            return _Trouble("an address that is not fetched")
        seen = seen.__cause__
    return _UNAVAILABLE
