"""How fast each provider alone sends, next to the same calls by a bare client; one JSON line each.

python -m bench.providers [--seconds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from uuid import uuid4

import aiohttp
import orjson

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.settings import Settings
from streams.domain.mime import build_mail
from streams.providers.sendgrid import SendGridProvider, payload
from streams.providers.smtp import SmtpProvider

FROM = "Acme <news@acme.example>"
IN_FLIGHT = 200
_SMTP_SINK = """
import asyncio, uvloop
from aiosmtpd.smtp import SMTP
class Taker:
    async def handle_DATA(self, server, session, envelope):
        return "250 2.0.0 taken"
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(Taker(), hostname="sink.example", loop=loop), "127.0.0.1", 0)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()
uvloop.install()
asyncio.run(main())
"""


def delivery() -> Delivery:
    """An ordinary message: 0.5 KB of text, 2 KB of HTML."""
    return Delivery(
        delivery_id=uuid4(),
        notification_id=uuid4(),
        user_id="user-1",
        channel=Channel.EMAIL,
        category="general",
        to="ada@example.com",
        content={"subject": "Your März invoice", "text": "Hello Ada,\n" * 45, "html": "<p>Hello Ada</p>\n" * 120},
        created_at=datetime.now(UTC),
    )


def settings(**given: object) -> Settings:
    """Settings that don't need an environment."""
    return Settings.model_validate({"database_url": "postgresql://bench/bench", "email_from": FROM, **given})


async def rate(call: Callable[[], Awaitable[None]], *, seconds: float) -> float:
    """Calls a second with `IN_FLIGHT` of them under way."""
    done = 0
    stop = time.perf_counter() + seconds

    async def repeat() -> None:
        nonlocal done
        while time.perf_counter() < stop:
            await call()
            done += 1

    started = time.perf_counter()
    await asyncio.gather(*(repeat() for _ in range(IN_FLIGHT)))
    return done / (time.perf_counter() - started)


async def mime_microseconds() -> float:
    """What building one message costs."""
    message = delivery()
    started = time.perf_counter()
    for _ in range(5000):
        build_mail(message, default_from=FROM, now=datetime.now(UTC))
    return (time.perf_counter() - started) / 5000 * 1e6


async def bare_rate(url: str, *, seconds: float) -> float:
    """The yardstick: the same body posted by aiohttp and nothing else."""
    body = orjson.dumps(payload(delivery(), default_from=FROM))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def call() -> None:
            async with session.post(url, data=body, headers={"Content-Type": "application/json"}) as response:
                await response.read()

        return await rate(call, seconds=seconds)


async def provider_rate(provider: SendGridProvider | SmtpProvider, *, seconds: float) -> float:
    """Whole sends, each of a delivery of its own."""

    async def call() -> None:
        result = await provider.send(delivery())
        assert result.outcome is Outcome.SENT, result

    await provider.open()
    try:
        return await rate(call, seconds=seconds)
    finally:
        await provider.close()


def start_sink(*command: str) -> tuple[subprocess.Popen[str], int]:
    """A sink in a process of its own, and its port."""
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, int(process.stdout.readline().rpartition(" ")[2])


async def measure(seconds: float) -> None:
    """Everything, line by line."""
    tell(bench="mime_build", microseconds=round(await mime_microseconds(), 1))
    sink, port = start_sink("-m", "bench.provider_sink", "--latency-ms", "20")
    base = f"http://127.0.0.1:{port}"
    try:
        bare = await bare_rate(f"{base}/v3/mail/send", seconds=seconds)
        provider = SendGridProvider(settings(sendgrid_api_key="SG.bench", sendgrid_base_url=base))
        own = await provider_rate(provider, seconds=seconds)
    finally:
        sink.terminate()
        sink.wait()
    tell(bench="sendgrid", in_flight=IN_FLIGHT, per_second=round(own), bare=round(bare), ratio=round(own / bare, 2))
    sink, port = start_sink("-c", _SMTP_SINK)
    try:
        own = await provider_rate(SmtpProvider(settings(smtp_host="127.0.0.1", smtp_port=port)), seconds=seconds)
    finally:
        sink.terminate()
        sink.wait()
    tell(bench="smtp", connections=20, per_second=round(own))


def tell(**line: object) -> None:
    """One result."""
    print(json.dumps(line), flush=True)


def main() -> None:
    """Runs with uvloop, as the workers do."""
    import uvloop  # noqa: PLC0415

    parser = argparse.ArgumentParser(description="How fast each provider alone sends.")
    parser.add_argument("--seconds", type=float, default=5.0)
    uvloop.run(measure(parser.parse_args().seconds))


if __name__ == "__main__":
    main()
