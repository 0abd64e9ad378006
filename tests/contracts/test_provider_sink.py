"""The sink that tests and benchmarks measure against keeps an honest ledger."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from bench.adapters import VENDORS, delivery_for, provider_at
from bench.provider_sink import serve
from models.enums import Outcome
from streams.providers.sendgrid import SendGridProvider
from tests.contracts.deliveries import API_KEY, TO, email_delivery, settings


class Remote:
    """The sink as a client sees it, and a provider that sends to it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
        self.port = int(url.rpartition(":")[2])
        self._session = session
        self.provider = SendGridProvider(
            settings(sendgrid_api_key=API_KEY, sendgrid_base_url=url, provider_timeout_seconds=1.0)
        )

    async def get(self, path: str) -> Any:
        async with self._session.get(self._url + path) as response:
            return await response.json()

    async def post(self, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._session.post(self._url + path, json=body) as response:
            return response.status, await response.json()


@pytest.fixture
async def sink() -> AsyncIterator[Remote]:
    server, _ = await serve(port=0, latency_ms=1.0)
    async with aiohttp.ClientSession() as session:
        remote = Remote(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", session)
        yield remote
        await remote.provider.close()
    server.close()


async def test_counts_calls_by_delivery(sink: Remote) -> None:
    once, twice = email_delivery(), email_delivery()
    for delivery in (once, twice, twice):
        assert (await sink.provider.send(delivery)).outcome is Outcome.SENT
    told = await sink.get("/ledger")
    assert (told["calls"], told["deliveries"], told["repeated_deliveries"], told["in_flight"]) == (3, 2, 1, 0)
    first = told["ledger"][str(once.delivery_id)]
    assert (first["calls"], first["accepted"], first["order"], first["to"]) == (1, 1, 1, TO)
    assert told["ledger"][str(twice.delivery_id)]["accepted"] == 2
    assert (await sink.post("/reset"))[1]["calls"] == 0


@pytest.mark.parametrize(
    ("behaviour", "outcome", "accepted"),
    [
        ({"status": 500}, Outcome.RETRY, 0),
        ({"status": 429, "headers": {"Retry-After": "20"}}, Outcome.RETRY, 0),
        ({"status": 401}, Outcome.BROKEN, 0),
        ({"fault": "cut"}, Outcome.AMBIGUOUS, 1),
        ({"fault": "reset"}, Outcome.AMBIGUOUS, 1),
        ({"fault": "hang"}, Outcome.AMBIGUOUS, 0),
        ({"latency_ms": 2000}, Outcome.AMBIGUOUS, 0),
    ],
)
async def test_misbehaves_on_command(sink: Remote, behaviour: dict[str, Any], outcome: Outcome, accepted: int) -> None:
    assert (await sink.post("/behaviour", {**behaviour, "times": 1}))[0] == 200
    delivery = email_delivery()
    assert (await sink.provider.send(delivery)).outcome is outcome
    told = await sink.get("/ledger")
    assert told["ledger"][str(delivery.delivery_id)]["accepted"] == accepted
    assert (await sink.provider.send(delivery)).outcome is Outcome.SENT


async def test_misbehaves_with_a_part_of_the_calls(sink: Remote) -> None:
    await sink.post("/behaviour", {"status": 500, "share": 0.25})
    outcomes = [(await sink.provider.send(email_delivery())).outcome for _ in range(20)]
    assert outcomes.count(Outcome.RETRY) == 5


@pytest.mark.parametrize("behaviour", [{"fault": "fire"}, {"stauts": 500}, [1], "x"])
async def test_an_unknown_behaviour_is_refused(sink: Remote, behaviour: Any) -> None:
    assert (await sink.post("/behaviour", behaviour))[0] == 400
    assert (await sink.provider.send(email_delivery())).outcome is Outcome.SENT


async def test_other_paths_are_not_there(sink: Remote) -> None:
    assert (await sink.post("/v3/other", {}))[0] == 404


async def test_notes_when_each_call_began_on_both_clocks(sink: Remote) -> None:
    delivery = email_delivery()
    await sink.post("/behaviour", {"status": 503, "times": 1})
    around = [(time.time(), time.monotonic())]
    for _ in range(2):
        await sink.provider.send(delivery)
        around.append((time.time(), time.monotonic()))
    starts = (await sink.get("/ledger"))["ledger"][str(delivery.delivery_id)]["starts"]
    assert len(starts) == 2
    for start, before, after in zip(starts, around, around[1:], strict=False):
        assert before[0] <= start[0] <= after[0]
        assert before[1] <= start[1] <= after[1]


async def test_misbehaves_with_some_recipients(sink: Remote) -> None:
    await sink.post("/behaviour", {"status": 500, "to": "unlucky@"})
    unlucky, lucky = email_delivery(to="unlucky@example.com"), email_delivery(to="lucky@example.com")
    outcomes = [(await sink.provider.send(delivery)).outcome for delivery in (unlucky, lucky, unlucky)]
    assert outcomes == [Outcome.RETRY, Outcome.SENT, Outcome.RETRY]


async def test_slows_down_a_part_of_the_calls(sink: Remote) -> None:
    await sink.post("/behaviour", {"latency_ms": 5000, "share": 0.25})
    calls = [asyncio.create_task(sink.provider.send(email_delivery())) for _ in range(8)]
    done, slow = await asyncio.wait(calls, timeout=0.7)
    assert (len(done), len(slow)) == (6, 2)
    assert {(await call).outcome for call in slow} == {Outcome.AMBIGUOUS}


async def test_goes_on_until_told_otherwise(sink: Remote) -> None:
    await sink.post("/behaviour", {"status": 401})
    assert {(await sink.provider.send(email_delivery())).outcome for _ in range(5)} == {Outcome.BROKEN}
    await sink.post("/behaviour", {})
    assert (await sink.provider.send(email_delivery())).outcome is Outcome.SENT
    told = await sink.get("/summary")
    assert (told["calls"], told["accepted_deliveries"], told["repeated_deliveries"]) == (6, 1, 0)


async def test_tells_how_long_to_wait(sink: Remote) -> None:
    await sink.post("/behaviour", {"status": 429, "headers": {"Retry-After": "20"}})
    result = await sink.provider.send(email_delivery())
    assert (result.outcome, result.retry_after) == (Outcome.RETRY, timedelta(seconds=20))


@pytest.mark.parametrize("name", ["sendgrid", "ses", "sns", "twilio", "fcm"])
async def test_each_vendor_is_answered_in_its_form(
    sink: Remote, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vendor = VENDORS[name]
    for variable, value in vendor.environment.items():
        monkeypatch.setenv(variable, value)
    provider = provider_at(vendor, sink.port, tmp_path)
    await provider.open()
    try:
        result = await provider.send(delivery_for(provider))
    finally:
        await provider.close()
    assert result.outcome is Outcome.SENT
    assert result.provider_message_id
    assert (await sink.get("/summary"))["accepted"] == 1
    assert (await sink.get("/last"))["head"].startswith("POST ")
