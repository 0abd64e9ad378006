"""HTTP/2 connections to APNs, each of them with a bounded number of streams.

A pool of httpx2 puts all calls on one connection, and those beyond its streams wait inside it, unseen. So each client
here has one connection, and a call takes the first that has room. One on which a call went unanswered is retired: the
stream stays open as long as the connection does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx2

#: httpx2 opens no more on one connection; Apple allows 1000.
STREAMS = 100
#: Apple closes idle connections after an hour; firewalls between forget them after minutes.
_IDLE_SECONDS = 120.0


@dataclass(slots=True, eq=False)
class Connection:
    """A client with one connection, which it makes anew when it has ended."""

    client: httpx2.AsyncClient
    calls: int = 0
    #: It gets no new calls, and is closed when the last one has ended.
    is_retired: bool = False


class ApnsConnections:
    """As many as are needed for the calls in flight."""

    def __init__(self, context: ssl.SSLContext | None, *, connect_seconds: float) -> None:
        self._context = context
        self._timeout = httpx2.Timeout(None, connect=connect_seconds, pool=connect_seconds)
        self._open: list[Connection] = []
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """A connection with room for a call, and its place on it until the end."""
        connection = next((one for one in self._open if one.calls < STREAMS), None) or self._another()
        connection.calls += 1
        try:
            yield connection
        finally:
            connection.calls -= 1
            if connection.is_retired and not connection.calls:
                self._close(connection)

    def retire(self, connection: Connection) -> None:
        """No call goes by this one any more."""
        connection.is_retired = True
        with contextlib.suppress(ValueError):
            self._open.remove(connection)

    async def close(self) -> None:
        """Closes all."""
        connections, self._open = self._open, []
        for connection in connections:
            self._close(connection)
        if self._closing:
            await asyncio.wait(self._closing)

    def _another(self) -> Connection:
        client = httpx2.AsyncClient(
            http1=False,
            http2=True,
            verify=self._context if self._context is not None else False,
            timeout=self._timeout,
            limits=httpx2.Limits(max_connections=1, max_keepalive_connections=1, keepalive_expiry=_IDLE_SECONDS),
            follow_redirects=False,
            trust_env=False,
        )
        connection = Connection(client)
        self._open.append(connection)
        return connection

    def _close(self, connection: Connection) -> None:
        task = asyncio.get_running_loop().create_task(_quietly(connection.client))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


async def _quietly(client: httpx2.AsyncClient) -> None:
    with contextlib.suppress(Exception):  # what it says of a connection that is gone helps nobody
        await client.aclose()
