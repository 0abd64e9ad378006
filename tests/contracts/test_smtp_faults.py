"""The SMTP provider against a server that fails at each point of the dialogue."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from models.enums import Outcome
from streams.providers.base import Reach
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import email_delivery, email_options, settings
from tests.contracts.raw_smtp import DROP, HANG, RawSmtp


@pytest.fixture
async def server() -> AsyncIterator[RawSmtp]:
    server = RawSmtp()
    await server.start()
    yield server
    await server.stop()


def provider_of(server: RawSmtp, **given: Any) -> SmtpProvider:
    fields = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "provider_timeout_seconds": 0.4, **given}
    return SmtpProvider(settings(**fields))


@pytest.mark.parametrize(
    ("verb", "reply", "outcome"),
    [
        ("GREETING", DROP, Outcome.RETRY),
        ("GREETING", HANG, Outcome.RETRY),
        ("GREETING", "421 4.3.2 too many connections", Outcome.RETRY),
        ("GREETING", "554 5.7.1 you are blocked", Outcome.BROKEN),
        ("EHLO", DROP, Outcome.RETRY),
        ("EHLO", "451 not now", Outcome.RETRY),
        ("MAIL", DROP, Outcome.RETRY),
        ("MAIL", HANG, Outcome.RETRY),
        ("RCPT", DROP, Outcome.RETRY),
        ("RCPT", HANG, Outcome.RETRY),
        ("RCPT", "what? no code", Outcome.RETRY),
        ("DATA", DROP, Outcome.RETRY),
        ("DATA", HANG, Outcome.RETRY),
        ("DATA", "451 4.3.0 disk full", Outcome.RETRY),
        ("DATA", "554 5.5.1 no valid recipients", Outcome.PERMANENT),
        ("DATA", "250 a reply that makes no sense", Outcome.RETRY),
        ("DOT", DROP, Outcome.AMBIGUOUS),
        ("DOT", HANG, Outcome.AMBIGUOUS),
        ("DOT", "what? no code", Outcome.AMBIGUOUS),
        ("DOT", "251 odd, but a yes", Outcome.SENT),
        ("DOT", "250", Outcome.SENT),
        ("DOT", "999 beyond all tables", Outcome.RETRY),
    ],
)
async def test_each_point_of_the_dialogue(server: RawSmtp, verb: str, reply: str, outcome: Outcome) -> None:
    server.replies[verb] = reply
    provider = provider_of(server)
    async with asyncio.timeout(1.0):
        result = await provider.send(email_delivery())
    assert result.outcome is outcome, result
    server.replies.clear()
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT
    await provider.close()


@pytest.mark.parametrize(
    ("verb", "reply", "reach"),
    [
        ("GREETING", DROP, Reach.AWAY),
        ("GREETING", HANG, Reach.AWAY),
        ("GREETING", "421 4.3.2 too many connections", Reach.AWAY),
        ("EHLO", "451 not now", Reach.AWAY),
        ("MAIL", HANG, Reach.AWAY),
        ("MAIL", "451 4.3.0 disk full", Reach.ANSWERED),
        ("RCPT", "450 4.7.1 greylisted", Reach.ANSWERED),
        ("DATA", "421 4.3.2 shutting down", Reach.AWAY),
        ("DOT", DROP, Reach.AWAY),
        ("DOT", HANG, Reach.AWAY),
        ("DOT", "451 4.3.0 disk full", Reach.ANSWERED),
    ],
)
async def test_an_outage_is_told_from_an_answer(server: RawSmtp, verb: str, reply: str, reach: Reach) -> None:
    server.replies[verb] = reply
    provider = provider_of(server)
    assert (await provider.send(email_delivery())).reach is reach
    await provider.close()


async def test_an_old_server_without_ehlo_is_spoken_to(server: RawSmtp) -> None:
    server.replies["EHLO"] = "502 what is that"
    assert (await provider_of(server).send(email_delivery())).outcome is Outcome.SENT
    assert server.commands[1].startswith(b"HELO ")


async def test_a_message_that_was_not_written_to_its_dot_is_not_in_doubt(server: RawSmtp) -> None:
    """The server stops reading in the middle: with 30 MB the kernel's buffers can't hide the rest."""
    reader_stopped = asyncio.Event()

    async def deaf(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 deaf\r\n")
        for reply in (b"250 hi\r\n", b"250 OK\r\n", b"250 OK\r\n", b"354 go\r\n"):
            await reader.readline()
            writer.write(reply)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        await reader_stopped.wait()
        writer.close()

    listening = await asyncio.start_server(deaf, "127.0.0.1", 0)
    provider = SmtpProvider(
        settings(
            smtp_host="127.0.0.1",
            smtp_port=listening.sockets[0].getsockname()[1],
            provider_timeout_seconds=1.0,
        )
    )
    result = await provider.send(email_delivery(content={"subject": "big", "text": "x" * 30_000_000}))
    reader_stopped.set()
    listening.close()
    assert (result.outcome, result.reason) == (Outcome.RETRY, "timeout")


async def test_a_broken_off_message_leaves_nothing_for_the_next(server: RawSmtp) -> None:
    provider = provider_of(server)
    server.replies["RCPT"] = "450 4.2.0 greylisted"
    await provider.send(email_delivery(to="first@example.com"))
    server.replies.clear()
    await provider.send(email_delivery(to="second@example.com", options=email_options(cc=("third@example.com",))))
    await provider.close()
    (message,) = server.messages
    assert message.recipients == [b"<second@example.com>", b"<third@example.com>"]
    assert (server.connections, server.commands.count(b"RSET")) == (1, 1)


async def test_cancelling_hangs_up(server: RawSmtp) -> None:
    provider = provider_of(server, provider_timeout_seconds=10.0)
    server.replies["RCPT"] = HANG
    sending = asyncio.ensure_future(provider.send(email_delivery()))
    await asyncio.wait_for(server.reading.wait(), 5)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    server.replies.clear()
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT
    assert server.connections == 2
    await provider.close()
