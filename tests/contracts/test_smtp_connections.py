"""The pool of SMTP connections: what is idle too long or used too much is closed from our side, politely."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from models.enums import Outcome
from streams.providers.smtp import SmtpProvider
from streams.providers.smtp_connections import MESSAGES_PER_CONNECTION, SmtpConnections
from tests.contracts.deliveries import email_delivery, settings
from tests.contracts.raw_smtp import RawSmtp


@pytest.fixture
async def server() -> AsyncIterator[RawSmtp]:
    server = RawSmtp()
    await server.start()
    yield server
    await server.stop()


def pool(server: RawSmtp, *, idle_seconds: float) -> SmtpConnections:
    return SmtpConnections(settings(smtp_host="127.0.0.1", smtp_port=server.port), idle_seconds=idle_seconds)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.01)


async def test_idle_connections_are_closed_without_being_asked_for(server: RawSmtp) -> None:
    connections = pool(server, idle_seconds=0.1)
    first, second = await connections.connect(), await connections.connect()
    connections.give_back(first)
    connections.give_back(second)
    await until(lambda: server.commands.count(b"QUIT") == 2)
    assert connections.idle() is None
    await connections.close()


async def test_an_old_one_is_not_handed_out(server: RawSmtp) -> None:
    connections = pool(server, idle_seconds=60)
    connection = await connections.connect()
    connections.give_back(connection)
    connection.idle_since -= 61
    assert connections.idle() is None
    await connections.close()
    assert server.commands.count(b"QUIT") == 1


async def test_the_one_used_last_goes_first(server: RawSmtp) -> None:
    connections = pool(server, idle_seconds=60)
    first, second = await connections.connect(), await connections.connect()
    connections.give_back(first)
    connections.give_back(second)
    assert connections.idle() is second
    assert connections.idle() is first
    for connection in (first, second):
        connection.client.close()


async def test_a_connection_carries_so_many_messages_at_most(server: RawSmtp) -> None:
    provider = SmtpProvider(settings(smtp_host="127.0.0.1", smtp_port=server.port))
    for _ in range(MESSAGES_PER_CONNECTION + 1):
        assert (await provider.send(email_delivery())).outcome is Outcome.SENT
    await provider.close()
    assert (server.connections, len(server.messages)) == (2, MESSAGES_PER_CONNECTION + 1)
