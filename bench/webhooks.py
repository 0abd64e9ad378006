"""How many events a second one API process takes from a provider's callbacks: signed batches as SendGrid posts them.

The client runs in a process of its own, and signs its batches before the clock starts: 100 events each, of 100
deliveries, as nobody has sent before.

    python -m bench.webhooks --port 8002 --batches 200 --connections 4
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, TopicPartition
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_private_key,
)

from bench.load import percentile
from bench.pipeline import SERVERS, fresh_system
from bench.system import System, frozen
from bench.targets import Target, line

_ROOT = Path(__file__).resolve().parents[1]
_TOPIC = "provider.events"
_PARTITIONS = 8
_EVENTS = 100
_WARM_UP_BATCHES = 20


async def webhooks(batches: int = 400, connections: int = 4) -> dict[str, Any]:
    """Batches over few connections, as from one vendor; the workers stand still meanwhile."""
    key = ec.generate_private_key(ec.SECP256R1())
    async with fresh_system(SENDGRID_WEBHOOK_PUBLIC_KEY=_public(key)) as system:
        with frozen([system.pid(name) for name in system.workers()]):
            await _client(system.port, key, batches=_WARM_UP_BATCHES, connections=connections)
            before = {name: system.cpu_seconds(name) for name in ("api", *SERVERS)}
            told = await _client(system.port, key, batches=batches, connections=connections)
            used = {name: system.cpu_seconds(name) - cpu for name, cpu in before.items()}
            kept = await _records(system)
    events = batches * _EVENTS
    figures = {
        "events": events,
        "events_in_a_batch": _EVENTS,
        "connections": connections,
        "per_second": round(events / told["seconds"]),
        "batch_p50_ms": told["p50_ms"],
        "batch_p99_ms": told["p99_ms"],
        "cpu_us_each": {name: round(cpu / events * 1e6) for name, cpu in used.items()},
        "refused": batches - told["statuses"].get("204", 0),
        "missing": events + _WARM_UP_BATCHES * _EVENTS - kept,
    }
    targets = (
        Target("per_second", at_least=2_000),
        Target("refused", at_most=0),
        Target("missing", at_most=0),
    )
    return line("webhooks", figures, *targets)


def _public(key: ec.EllipticCurvePrivateKey) -> str:
    return base64.b64encode(key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).decode()


async def _client(port: int, key: ec.EllipticCurvePrivateKey, *, batches: int, connections: int) -> dict[str, Any]:
    """One run of the client, in a process of its own."""
    command = [sys.executable, "-m", "bench.webhooks", "--port", str(port)]
    command += ["--batches", str(batches), "--connections", str(connections)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdin=pipe, stdout=pipe)
    try:
        private = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        told, _ = await process.communicate(base64.b64encode(private))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise RuntimeError(f"the client ended with exit code {process.returncode}")
    found: dict[str, Any] = orjson.loads(told)
    return found


async def _records(system: System) -> int:
    """How many records are on the topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await consumer.start()
    try:
        partitions = [TopicPartition(_TOPIC, number) for number in range(_PARTITIONS)]
        return int(sum((await consumer.end_offsets(partitions)).values()))
    finally:
        await consumer.stop()


def _event(batch: int, number: int) -> dict[str, Any]:
    known = f"{batch}-{number}"
    return {
        "email": f"user-{number}@example.com",
        "timestamp": int(time.time()),
        "smtp-id": "<14c5d75ce93.dfd.64b469@ismtpd-555>",
        "event": ("processed", "delivered", "open", "click")[number % 4],
        "category": ["notification"],
        "sg_event_id": f"{uuid.uuid4().hex}-{known}",
        "sg_message_id": f"{uuid.uuid4().hex}.filter0001.16648.5515E0B88.0",
        "useragent": "Mozilla/5.0",
        "ip": "192.0.2.1",
        "response": "250 OK",
        "delivery_id": str(uuid.uuid4()),
        "notification_id": str(uuid.uuid4()),
        "generation": "0",
        "attempt": "1",
    }


def _signed(key: ec.EllipticCurvePrivateKey, batch: int) -> tuple[bytes, dict[str, str]]:
    body = orjson.dumps([_event(batch, number) for number in range(_EVENTS)])
    timestamp = str(int(time.time()))
    signature = base64.b64encode(key.sign(timestamp.encode() + body, ec.ECDSA(SHA256()))).decode()
    return body, {
        "Content-Type": "application/json",
        "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
        "X-Twilio-Email-Event-Webhook-Signature": signature,
    }


async def post(*, port: int, batches: int, connections: int, private: bytes) -> dict[str, Any]:
    """Posts all batches; returns the figures."""
    key = load_der_private_key(private, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    waiting = [_signed(key, batch) for batch in range(batches)]
    statuses: Counter[str] = Counter()
    seconds: list[float] = []

    async def connection(session: aiohttp.ClientSession) -> None:
        while waiting:
            body, headers = waiting.pop()
            began = time.perf_counter()
            async with session.post("/api/v1/webhooks/sendgrid", data=body, headers=headers) as answer:
                await answer.read()
            seconds.append(time.perf_counter() - began)
            statuses[str(answer.status)] += 1

    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
        started = time.perf_counter()
        await asyncio.gather(*(connection(session) for _ in range(connections)))
        took = time.perf_counter() - started
    return {
        "seconds": took,
        "statuses": dict(statuses),
        "p50_ms": round(percentile(seconds, 0.5) * 1000, 1),
        "p99_ms": round(percentile(seconds, 0.99) * 1000, 1),
    }


def main() -> None:
    """One run, one line."""
    parser = argparse.ArgumentParser(
        description="Posts SendGrid's batches as fast as they are answered; its private key comes on stdin."
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--batches", type=int, default=400)
    parser.add_argument("--connections", type=int, default=4)
    private = base64.b64decode(sys.stdin.read())
    print(orjson.dumps(uvloop.run(post(**vars(parser.parse_args()), private=private))).decode())


if __name__ == "__main__":
    main()
