"""SMS and push with a vendor in trouble: what it asks for is kept, the next one carries, and nothing is lost.

The vendors are the stand-ins of the benchmarks; e-mail has the same in test_fail_over.py and test_provider_trouble.py.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from bench.adapters import VENDORS, provider_at
from bench.provider_sink import Sink, serve
from models.enums import Priority
from streams.providers.base import NotificationProvider
from streams.topics import TIERS
from tests.fixtures.service import Ledger, Service, a_request, a_service
from tests.fixtures.stack import Databases

_DELIVERIES = (
    "SELECT provider, status, attempts, channel FROM notification_deliveries WHERE notification_id = ANY(:ids)"
)
_DEAD = "SELECT 1 FROM delivery_failures WHERE notification_id = ANY(:ids)"
THROTTLED = {"status": 429, "headers": {"Retry-After": "3"}, "body": {"code": 20429, "message": "x", "status": 429}}
REFUSED: dict[str, dict[str, Any]] = {
    "twilio": {"status": 401, "body": {"code": 20003, "message": "x", "status": 401}},
    "sns": {"status": 403, "body": {"__type": "InvalidClientTokenId"}},
    "fcm": {"status": 401, "body": {"error": {"code": 401, "status": "UNAUTHENTICATED"}}},
}


@dataclass
class Vendors:
    """Stand-ins by the vendor's name."""

    sinks: dict[str, Sink]

    def behave(self, name: str, **behaviour: Any) -> None:
        self.sinks[name].behave(behaviour)

    def accepted(self, name: str) -> int:
        return self.sinks[name].accepted

    def starts(self, name: str) -> list[float]:
        """When it was called, by the monotonic clock."""
        entry = self.sinks[name].ledger.get(name)
        return [] if entry is None else [at for _, at in entry.starts]


@pytest.fixture
async def service(kafka: str, postgres: Databases, migrated: str, valkey: str) -> AsyncIterator[Service]:
    async with a_service(kafka, postgres, migrated, valkey) as running:
        yield running


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in VENDORS["sns"].environment.items():
        monkeypatch.setenv(name, value)


@asynccontextmanager
async def sending(
    service: Service, folder: Path, *names: str, others: Sequence[NotificationProvider] = ()
) -> AsyncIterator[Vendors]:
    """A worker with a chain of these vendors, each with a stand-in of its own."""
    vendors, servers, chain = Vendors({}), [], []
    for name in names:
        server, vendors.sinks[name] = await serve(port=0, latency_ms=1.0)
        servers.append(server)
        chain.append(provider_at(VENDORS[name], server.sockets[0].getsockname()[1], folder))
    channel = chain[0].channel
    providers = {channel: chain} | {other.channel: [other] for other in others}
    lanes = {f"send-{each}-{priority}" for each in providers for priority in Priority}
    try:
        async with service.worker(
            providers=providers, only={"requests-normal", *lanes, *(f"delay-{tier}" for tier in TIERS)}
        ):
            yield vendors
    finally:
        for provider in chain:
            await provider.close()
        for server in servers:
            server.close()


def sms() -> dict[str, Any]:
    return a_request(channel="sms", recipient={"phone": "+4915112345678"}, content={"text": "Hello {{ name }}"})


def push() -> dict[str, Any]:
    device = {"platform": "fcm", "token": "f" * 40}
    content = {"title": "Hi", "body": "Hello {{ name }}"}
    return a_request(channel="push", recipient={"device_tokens": [device]}, content=content)


async def publish(service: Service, requests: Sequence[dict[str, Any]]) -> list[UUID]:
    for request in requests:
        await service.publish(request)
    return [UUID(request["id"]) for request in requests]


async def sent(service: Service, ids: list[UUID], *, within_seconds: float = 40.0) -> Counter[tuple[str, int]]:
    """Once all are sent: by whom, and with how many attempts."""
    async with asyncio.timeout(within_seconds):
        while True:
            rows = await service.fetch(_DELIVERIES, ids=ids)
            if len(rows) == len(ids) and {row.status for row in rows} == {"sent"}:
                return Counter((row.provider, row.attempts) for row in rows)
            await asyncio.sleep(0.05)


async def test_who_asks_to_wait_is_left_alone_and_nobody_is_harmed(service: Service, tmp_path: Path) -> None:
    mail = Ledger()
    async with sending(service, tmp_path, "twilio", "sns", others=[mail]) as vendors:
        assert await sent(service, await publish(service, [sms() for _ in range(3)])) == {("twilio", 1): 3}
        vendors.behave("twilio", **THROTTLED)
        limited = time.monotonic()
        by_sns = await sent(service, await publish(service, [sms() for _ in range(30)]))
        assert set(by_sns) == {("sns", 1)}
        assert (await sent(service, await publish(service, [a_request() for _ in range(5)]))) == {("ledger", 1): 5}
        async with asyncio.timeout(20):  # at least two probes: each is one real message
            while len([at for at in vendors.starts("twilio") if at > limited + 5.5]) < 1:
                await sent(service, await publish(service, [sms()]))
        calls = [at for at in vendors.starts("twilio") if at > limited]
        gaps = [after - before for before, after in pairwise(calls) if after - before > 0.5]
        assert len(gaps) >= 2
        assert all(gap >= 3 for gap in gaps)
        vendors.behave("twilio")
        async with asyncio.timeout(20):
            while await sent(service, await publish(service, [sms()])) != {("twilio", 1): 1}:
                await asyncio.sleep(0.2)


@pytest.mark.parametrize(("names", "make"), [(("twilio", "sns"), sms), (("fcm",), push)], ids=["sms", "push"])
@pytest.mark.parametrize("trouble", ["refused", "out of service"])
async def test_when_nobody_works_all_wait_and_go_out_on_recovery(
    service: Service, tmp_path: Path, names: tuple[str, ...], make: Any, trouble: str
) -> None:
    async with sending(service, tmp_path, *names) as vendors:
        for name in names:
            vendors.behave(name, **(REFUSED[name] if trouble == "refused" else {"status": 503}))
        ids = await publish(service, [make() for _ in range(40)])
        async with asyncio.timeout(20):
            while not all(vendors.starts(name) for name in names):
                await asyncio.sleep(0.05)
        await asyncio.sleep(2)  # what would go wrong has its chance
        assert [vendors.accepted(name) for name in names] == [0] * len(names)
        for name in names:
            vendors.behave(name)
        done = await sent(service, ids)
        assert sum(vendors.accepted(name) for name in names) == 40
        assert await service.fetch(_DEAD, ids=ids) == []
        if trouble == "refused":
            assert {attempts for _, attempts in done} == {1}


async def test_traffic_is_shared_by_weight(
    kafka: str, postgres: Databases, migrated: str, valkey: str, tmp_path: Path
) -> None:
    shares = {"sms_providers": ("twilio", "sns"), "sms_weights": {"twilio": 3, "sns": 1}}
    async with a_service(kafka, postgres, migrated, valkey, **shares) as service:
        async with sending(service, tmp_path, "twilio", "sns") as vendors:
            ids = await publish(service, [sms() for _ in range(200)])
            done = await sent(service, ids)
            assert done[("twilio", 1)] == pytest.approx(150, abs=20)
            assert done.total() == 200
            vendors.behave("twilio", **REFUSED["twilio"])
            assert set(await sent(service, await publish(service, [sms() for _ in range(20)]))) == {("sns", 1)}
        assert vendors.accepted("twilio") + vendors.accepted("sns") == 220
