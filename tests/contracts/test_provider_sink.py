"""The sink that tests and benchmarks measure against keeps an honest ledger."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bench.provider_sink import serve
from models.enums import Outcome
from streams.providers.sendgrid import SendGridProvider
from tests.contracts.deliveries import API_KEY, TO, email_delivery, settings


class Remote:
    """The sink as a client sees it, and a provider that sends to it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self._url = url
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
