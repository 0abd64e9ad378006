"""A small pool of SMTP connections: each carries one message at a time and is used again for the next.

Opening one costs a TCP and often a TLS handshake, a greeting and a login; a message on an open one costs four short
round trips. Connections idle for long are closed from this side, before the server does it in the middle of a send.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections import deque
from dataclasses import dataclass

import aiosmtplib

from models.settings import Settings

#: Servers may hang up after 5 minutes (RFC 5321 section 4.5.3.2.7); busy ones do after 30 to 60 seconds.
IDLE_SECONDS = 20.0
#: Some relays allow 100 messages a connection; who needs fewer answers 421, and we connect anew.
MESSAGES_PER_CONNECTION = 100
_FAREWELL_SECONDS = 1.0


@dataclass(slots=True)
class Connection:
    """One open connection, and how far it has been used."""

    client: aiosmtplib.SMTP
    messages: int = 0
    idle_since: float = 0.0
    #: A message was broken off in it: RSET comes before the next.
    needs_reset: bool = False


class SmtpConnections:
    """At most `settings.smtp_connections` at once; the most recently used idle one goes first."""

    def __init__(
        self,
        settings: Settings,
        *,
        tls_context: ssl.SSLContext | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        self._settings = settings
        self._tls_context = tls_context
        self._idle_seconds = idle_seconds
        self._slots = asyncio.Semaphore(settings.smtp_connections)
        self._idle: deque[Connection] = deque()
        self._hostname: str | None = None
        self._farewells: set[asyncio.Task[None]] = set()
        self._sweep: asyncio.TimerHandle | None = None

    async def acquire_slot(self) -> None:
        """Waits until one more connection may be in use; every acquired slot must be released."""
        await self._slots.acquire()

    def release_slot(self) -> None:
        """Lets the next one in."""
        self._slots.release()

    def idle(self) -> Connection | None:
        """An open connection that was used before, if there is one that is not too old."""
        while self._idle:
            connection = self._idle.pop()
            if connection.client.is_connected and _now() - connection.idle_since < self._idle_seconds:
                return connection
            self._say_goodbye(connection)
        return None

    async def connect(self) -> Connection:
        """Opens one more: TLS, greeting and login as the settings say.

        Raises:
            aiosmtplib.SMTPException, OSError, ssl.SSLError: as the library says.
        """
        client = aiosmtplib.SMTP(
            hostname=self._settings.smtp_host,
            port=self._settings.smtp_port,
            username=self._settings.smtp_username,
            password=self._settings.smtp_password,
            local_hostname=await self._own_name(),
            timeout=self._settings.provider_timeout_seconds,
            use_tls=self._settings.smtp_tls == "tls",
            start_tls=self._settings.smtp_tls == "starttls",
            tls_context=self._context(),
        )
        try:
            await client.connect()
            if client.is_ehlo_or_helo_needed:
                await _greet(client)
        except BaseException:
            client.close()
            raise
        return Connection(client)

    def give_back(self, connection: Connection) -> None:
        """Keeps a connection whose last message ended in order."""
        connection.messages += 1
        if not connection.client.is_connected:
            return
        if connection.messages >= MESSAGES_PER_CONNECTION:
            self._say_goodbye(connection)
            return
        connection.idle_since = _now()
        self._idle.append(connection)
        self._plan_sweep()

    async def close(self) -> None:
        """Ends all idle connections politely, within a second."""
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        while self._idle:
            self._say_goodbye(self._idle.pop())
        if self._farewells:
            await asyncio.wait(self._farewells)

    def _context(self) -> ssl.SSLContext | None:
        if self._settings.smtp_tls != "none" and self._tls_context is None:
            self._tls_context = ssl.create_default_context()
        return self._tls_context

    async def _own_name(self) -> str:
        """What we call ourselves in EHLO. Looked up once: a name server that is away would cost each connection."""
        if self._hostname is None:
            name = socket.gethostname()
            with contextlib.suppress(TimeoutError):
                name = await asyncio.wait_for(asyncio.to_thread(socket.getfqdn), timeout=1.0)
            self._hostname = name if name.isascii() and "." in name else "[127.0.0.1]"
        return self._hostname

    def _plan_sweep(self) -> None:
        if self._sweep is None:
            self._sweep = asyncio.get_running_loop().call_later(self._idle_seconds, self._close_old)

    def _close_old(self) -> None:
        self._sweep = None
        oldest_allowed = _now() - self._idle_seconds
        while self._idle and self._idle[0].idle_since <= oldest_allowed:
            self._say_goodbye(self._idle.popleft())
        if self._idle:
            self._plan_sweep()

    def _say_goodbye(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(_quit(connection.client))
        self._farewells.add(task)
        task.add_done_callback(self._farewells.discard)


def _now() -> float:
    return asyncio.get_running_loop().time()


async def _greet(client: aiosmtplib.SMTP) -> None:
    try:
        await client.ehlo()
    except aiosmtplib.SMTPHeloError as error:
        if error.code < 500:
            raise
        await client.helo()


async def _quit(client: aiosmtplib.SMTP) -> None:
    with contextlib.suppress(aiosmtplib.SMTPException, OSError):
        await client.quit(timeout=_FAREWELL_SECONDS)
    client.close()
