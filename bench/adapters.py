"""How fast each provider's adapter alone sends, over a bare client that posts the same bytes, in the same run.

The vendor is a stand-in in a process of its own that answers after 20 ms. The client has a process of its own too, with
uvloop as the workers have; it lets the adapter and the bare client take turns.

    python -m bench.adapters sendgrid --seconds 5
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import cycle
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import aiohttp
import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from bench.system import cpu_seconds
from bench.targets import Target, line
from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.requests import Device
from models.settings import Settings
from streams.providers.base import NotificationProvider

_ROOT = Path(__file__).resolve().parents[1]
_FROM = "Acme <news@acme.example>"
_IN_FLIGHT = 200
_LATENCY_MS = 20
_LEAST_RATIO = 0.6
_SLICE_SECONDS = 0.5
#: They are made before the clock starts, and sent in turn.
_DELIVERIES = 1000
#: httpx2 opens so many streams on a connection; the bare client has as many connections as that takes.
_STREAMS = 100
#: The bare client says these itself.
_OWN_HEADERS = frozenset({"host", "content-length", "accept", "accept-encoding", "user-agent", "connection"})

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
uvloop.run(main())
"""

Call = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Vendor:
    """One adapter: its stand-in, and the settings that lead it there."""

    name: str
    settings: Callable[[int, Path], Mapping[str, object]]
    #: The stand-in's command line.
    sink: tuple[str, ...]
    #: None where there is no bare client to compare with.
    bare: Callable[[int, Delivery], Any] | None
    environment: Mapping[str, str] = field(default_factory=dict)


async def adapter(name: str, seconds: float = 5.0) -> dict[str, Any]:
    """One line of `python -m bench adapter-…`; the work is done by a process of its own."""
    command = [sys.executable, "-m", "bench.adapters", name, "--seconds", str(seconds)]
    process = await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdout=subprocess.PIPE)
    try:
        told, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    if process.returncode:
        raise RuntimeError(f"the client of {name} ended with {process.returncode}")
    targets = (Target("ratio", at_least=_LEAST_RATIO),) if VENDORS[name].bare is not None else ()
    return line(f"adapter-{name}", json.loads(told), *targets)


async def measure(vendor: Vendor, seconds: float) -> dict[str, Any]:
    """The figures."""
    os.environ.update(vendor.environment)
    with tempfile.TemporaryDirectory() as folder, _sink(vendor.sink) as (port, pid):
        provider = provider_at(vendor, port, Path(folder))
        async with AsyncExitStack() as stack:
            await provider.open()
            stack.push_async_callback(provider.close)
            await _send(provider)()
            bare = None
            if vendor.bare is not None:
                bare = await stack.enter_async_context(vendor.bare(port, delivery_for(provider)))
            rates = await _rates(_send(provider), bare, pid, seconds)
    return {"in_flight": _IN_FLIGHT, "latency_ms": 0 if vendor.name == "smtp" else _LATENCY_MS, **rates}


@dataclass(slots=True)
class _Tally:
    """What one client has done in all its slices."""

    calls: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return self.calls / self.seconds

    @property
    def cpu_us_each(self) -> float:
        return self.cpu_seconds / self.calls * 1e6


async def _rates(own: Call, bare: Call | None, sink: int, seconds: float) -> dict[str, Any]:
    """Both in turns, a slice each, so that a noisy machine is noisy for both.

    `cpu_ratio` says the same by the clients' own CPU; the stand-in's part of a core tells whether it was in the way.
    """
    mine, bares = _Tally(), _Tally()
    each = min(_SLICE_SECONDS, seconds)
    for call in filter(None, (own, bare)):
        await _slice(call, _Tally(), each)
    began, used = time.perf_counter(), cpu_seconds(sink)
    for _ in range(round(seconds / each)):
        await _slice(own, mine, each)
        if bare is not None:
            await _slice(bare, bares, each)
    told: dict[str, Any] = {"per_second": round(mine.per_second), "cpu_us_each": round(mine.cpu_us_each)}
    if bare is not None:
        told["bare_per_second"] = round(bares.per_second)
        told["ratio"] = round(mine.per_second / bares.per_second, 2)
        told["cpu_ratio"] = round(bares.cpu_us_each / mine.cpu_us_each, 2)
    return told | {"sink_busy": round((cpu_seconds(sink) - used) / (time.perf_counter() - began), 2)}


async def _slice(call: Call, tally: _Tally, seconds: float) -> None:
    """Some calls with `_IN_FLIGHT` of them under way."""
    stop = time.perf_counter() + seconds

    async def repeat() -> None:
        while time.perf_counter() < stop:
            await call()
            tally.calls += 1

    started, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(repeat() for _ in range(_IN_FLIGHT)))
    tally.seconds += time.perf_counter() - started
    tally.cpu_seconds += time.process_time() - used


# What is sent


def provider_at(vendor: Vendor, port: int, folder: Path) -> NotificationProvider:
    """The adapter as the registry builds it, for a stand-in on this port; keys go to the folder."""
    from streams.providers.registry import build_provider  # noqa: PLC0415  all vendors' SDKs come with it

    settings = Settings.model_validate(
        {"database_url": "postgresql://bench/bench", "email_from": _FROM, **vendor.settings(port, folder)}
    )
    return build_provider(vendor.name, settings, inbox=_Nowhere(), announcer=_Nowhere())


def delivery_for(provider: NotificationProvider) -> Delivery:
    """An ordinary message: 0.5 KB of text and 2 KB of HTML, an SMS, a push message."""
    to: dict[str, Any] = _TO[provider.channel]
    if provider.channel is Channel.PUSH:
        to = to | {"devices": (Device.model_validate({"platform": provider.name, "token": "a1" * 32}),)}
    return Delivery(
        delivery_id=uuid4(),
        notification_id=uuid4(),
        user_id="user-1",
        channel=provider.channel,
        category="general",
        created_at=datetime.now(UTC),
        **to,
    )


_TO: Mapping[Channel, dict[str, Any]] = {
    Channel.EMAIL: {
        "to": "ada@example.com",
        "content": {"subject": "Your März invoice", "text": "Hello Ada,\n" * 45, "html": "<p>Hello Ada</p>\n" * 120},
    },
    Channel.SMS: {"to": "+4915112345678", "content": {"text": "Your parcel comes today between 3 and 5."}},
    Channel.PUSH: {"content": {"title": "Your parcel", "body": "It comes today between 3 and 5."}},
}


def _send(provider: NotificationProvider) -> Call:
    deliveries = cycle([delivery_for(provider) for _ in range(_DELIVERIES)])

    async def call() -> None:
        result = await provider.send(next(deliveries))
        if result.outcome is not Outcome.SENT:
            raise RuntimeError(f"{provider.name}: {result.outcome} {result.reason}")

    return call


class _Nowhere:
    """In place of what only in_app needs."""

    async def add(self, delivery: Delivery) -> bool:
        """Nowhere."""
        return False

    async def announce(self, user_id: str, message: Mapping[str, Any]) -> None:
        """To nobody."""


# What it is compared with


@asynccontextmanager
async def _bare_aiohttp(port: int, _: Delivery) -> AsyncIterator[Call]:
    """Posts the adapter's own bytes again and again."""
    base = f"http://127.0.0.1:{port}"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        async with session.get(f"{base}/last") as response:
            last = orjson.loads(await response.read())
        first, *lines = last["head"].split("\r\n")
        url, body = base + first.split(" ")[1], last["body"].encode("latin-1")
        pairs = (each.split(": ", 1) for each in lines)
        headers = {name: value for name, value in pairs if name.lower() not in _OWN_HEADERS}

        async def call() -> None:
            async with session.post(url, data=body, headers=headers) as response:
                await response.read()
                response.raise_for_status()

        yield call


@asynccontextmanager
async def _bare_httpx2(port: int, delivery: Delivery) -> AsyncIterator[Call]:
    """The same size of message over as many connections as 200 streams take."""
    import httpx2  # noqa: PLC0415

    from streams.providers.apns import headers, payload  # noqa: PLC0415

    (device,) = delivery.devices
    url = f"http://127.0.0.1:{port}/3/device/{device.token}"
    fields = headers(delivery, device, topic="com.acme.app", now=datetime.now(UTC)) | {"authorization": "bearer x"}
    body = orjson.dumps(payload(delivery, {}))
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(httpx2.AsyncClient(http1=False, http2=True))
            for _ in range(_IN_FLIGHT // _STREAMS)
        ]
        turns = iter(range(sys.maxsize))

        async def call() -> None:
            response = await clients[next(turns) % len(clients)].post(url, content=body, headers=fields)
            response.raise_for_status()

        yield call


# The stand-ins, and who is led there


@contextmanager
def _sink(command: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    """Its port and its process."""
    if shutil.which(command[0]) is None:
        raise RuntimeError(f"{command[0]} is missing")
    process = subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline().rpartition(" ")[2]), process.pid
    finally:
        process.terminate()
        process.wait()


def _pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"


def _aws(port: int, _: Path) -> dict[str, object]:
    return {"aws_ses_region": "us-east-1", "aws_sns_region": "us-east-1", "aws_endpoint_url": _url(port)}


_AWS_KEYS = {"AWS_ACCESS_KEY_ID": "AKIABENCH", "AWS_SECRET_ACCESS_KEY": "bench"}


def _twilio(port: int, _: Path) -> dict[str, object]:
    return {
        "twilio_account_sid": f"AC{UUID(int=1).hex}",
        "twilio_auth_token": "bench",
        "twilio_from": "+15005550006",
        "twilio_base_url": _url(port),
    }


def _fcm(port: int, _: Path) -> dict[str, object]:
    account = {
        "type": "service_account",
        "project_id": "bench",
        "private_key": _pem(rsa.generate_private_key(65537, 2048)).decode(),
        "client_email": "bench@bench.iam.gserviceaccount.com",
        "token_uri": f"{_url(port)}/token",
    }
    return {"fcm_server_key": json.dumps(account), "fcm_base_url": _url(port)}


def _apns(port: int, folder: Path) -> dict[str, object]:
    key = folder / "AuthKey.p8"
    key.write_bytes(_pem(ec.generate_private_key(ec.SECP256R1())))
    own = {"apns_key_path": str(key), "apns_key_id": "ABC123DEFG", "apns_team_id": "DEF123GHIJ"}
    return {**own, "apns_topic": "com.acme.app", "apns_base_url": _url(port)}


_HTTP_SINK = (sys.executable, "-m", "bench.provider_sink", "--latency-ms", str(_LATENCY_MS))
VENDORS: Mapping[str, Vendor] = {
    vendor.name: vendor
    for vendor in (
        Vendor(
            "sendgrid",
            lambda port, _: {"sendgrid_api_key": "SG.bench", "sendgrid_base_url": _url(port)},
            _HTTP_SINK,
            _bare_aiohttp,
        ),
        Vendor("ses", _aws, _HTTP_SINK, _bare_aiohttp, _AWS_KEYS),
        Vendor("sns", _aws, _HTTP_SINK, _bare_aiohttp, _AWS_KEYS),
        Vendor("twilio", _twilio, _HTTP_SINK, _bare_aiohttp),
        Vendor("fcm", _fcm, _HTTP_SINK, _bare_aiohttp),
        Vendor("apns", _apns, ("node", "bench/apns_sink.js", str(_LATENCY_MS)), _bare_httpx2),
        Vendor(
            "smtp",
            lambda port, _: {"smtp_host": "127.0.0.1", "smtp_port": port},
            (sys.executable, "-c", _SMTP_SINK),
            None,
        ),
    )
}
NAMES = tuple(VENDORS)


def main() -> None:
    """Runs with uvloop, as the workers do."""
    import uvloop  # noqa: PLC0415

    parser = argparse.ArgumentParser(description="How fast one provider's adapter sends.")
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--seconds", type=float, default=5.0)
    wanted = parser.parse_args()
    print(json.dumps(uvloop.run(measure(VENDORS[wanted.name], wanted.seconds))), flush=True)


if __name__ == "__main__":
    main()
