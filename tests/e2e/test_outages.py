"""Kafka, Postgres, Redis and identity go away, or hang, in turn, under load: what was acknowledged is sent.

The short form runs with the suite, the long one by `make chaos`; both print their figures.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
import pytest
from aiokafka import AIOKafkaProducer

from bench.load import email_request
from bench.system import System, running_system
from models.enums import Channel
from models.ids import delivery_id
from models.settings import Settings
from models.status import ENDED_RANK
from tests.fixtures.outages import MountRefused, Outages, SmallDisk, own_servers

#: What the contract promises: an answer within 10 s, and all done 60 s after the servers are back.
ANSWER_SECONDS = 10.0
SETTLE_SECONDS = 60.0
SLOTS = Settings.model_fields["calls_in_flight"].default


@dataclass(frozen=True)
class Outage:
    """A server that goes away ("away": killed; "hung": SIGSTOP) for some time."""

    server: str
    how: str
    seconds: float


@dataclass(frozen=True)
class Plan:
    """A load, and what happens meanwhile."""

    per_second: float
    outages: Sequence[Outage]
    #: Load between two outages, and after the last.
    pause_seconds: float


SHORT = Plan(
    60,
    [
        Outage("postgres", "hung", 8),
        Outage("kafka", "away", 8),
        Outage("valkey", "away", 3),
        Outage("identity", "hung", 3),
    ],
    4,
)
LONG = [
    Plan(300, [Outage(server, how, seconds)], 15)
    for server in ("kafka", "postgres", "valkey", "identity")
    for how, seconds in (("away", 60.0), ("hung", 45.0))
]


@dataclass
class Caller:
    """Sends over HTTP and Kafka at a pace, reads back over HTTP, and writes down what it was answered."""

    system: System
    token: str
    acknowledged: dict[UUID, float] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    reads: Counter[int] = field(default_factory=Counter)
    slowest_seconds: float = 0.0
    unanswered: int = 0
    unacknowledged: int = 0

    async def run(self, per_second: float, stopped: asyncio.Event, *, http_share: float = 0.3) -> None:
        """Until stopped; then waits for the answers that are still to come."""
        chance = random.Random(4)
        headers = {"Authorization": f"Bearer {self.token}"}
        producer = AIOKafkaProducer(
            bootstrap_servers=self.system.settings["KAFKA_BOOTSTRAP_SERVERS"],
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            request_timeout_ms=120_000,
        )
        timeout = aiohttp.ClientTimeout(total=3 * ANSWER_SECONDS)
        async with (
            producer,
            aiohttp.ClientSession(headers=headers, timeout=timeout, connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            tasks = set()
            number, began = 0, time.monotonic()
            while not stopped.is_set():
                request = email_request(number)
                over_http = chance.random() < http_share
                work = self._post(session, request) if over_http else self._publish(producer, request)
                task = asyncio.create_task(work)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
                number += 1
                await asyncio.sleep(max(0.0, began + number / per_second - time.monotonic()))
            await asyncio.gather(*tasks)

    async def _post(self, session: aiohttp.ClientSession, request: dict[str, Any]) -> None:
        status = await self._ask(session.post(f"{self.system.api_url}/notifications", json=request), self.statuses)
        if status == 202:
            self.acknowledged[UUID(request["id"])] = time.time()
            await self._ask(session.get(f"{self.system.api_url}/notifications/{request['id']}"), self.reads)

    async def _ask(self, call: Any, counted: Counter[int]) -> int:
        began = time.monotonic()
        try:
            async with call as answer:
                await answer.read()
                counted[answer.status] += 1
                status: int = answer.status
        except (aiohttp.ClientError, TimeoutError):
            self.unanswered += 1
            status = 0
        self.slowest_seconds = max(self.slowest_seconds, time.monotonic() - began)
        return status

    async def _publish(self, producer: AIOKafkaProducer, request: dict[str, Any]) -> None:
        try:
            key = request["user_id"].encode()
            await producer.send_and_wait("notification.requests.normal", orjson.dumps(request), key=key)
        except Exception:  # not acknowledged: nothing was promised
            self.unacknowledged += 1
        else:
            self.acknowledged[UUID(request["id"])] = time.time()


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    acknowledged: int
    lost: int
    duplicates: int
    dead_letters: int
    seconds_to_end: float


@pytest.fixture(scope="module")
def outages() -> Any:
    with own_servers(["kafka", "postgres", "valkey", "identity"]) as running:
        yield running


@pytest.mark.timeout(180)
async def test_servers_that_go_and_come_back_cost_nothing(outages: Outages, tmp_path: Path) -> None:
    await check(outages, tmp_path, SHORT)


@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize("plan", LONG, ids=lambda plan: f"{plan.outages[0].server}-{plan.outages[0].how}")
async def test_a_minute_without_a_server_costs_nothing(outages: Outages, tmp_path: Path, plan: Plan) -> None:
    await check(outages, tmp_path, plan)


@pytest.mark.chaos
@pytest.mark.timeout(240)
async def test_a_full_disk_costs_nothing(tmp_path: Path) -> None:
    """Kafka's, Postgres's and Redis's at once: what can't be stored is not acknowledged."""
    disk = SmallDisk(megabytes=700)
    try:
        with own_servers(["kafka", "postgres", "valkey", "identity"], disk=disk) as outages:
            async with running_system(tmp_path / "home", **_settings(outages)) as system:
                caller = Caller(system, outages.identity.token("service"))
                stopped = asyncio.Event()
                load = asyncio.create_task(caller.run(60, stopped))
                await asyncio.sleep(4)
                before = sum(caller.statuses.values())
                await asyncio.to_thread(disk.fill)
                await asyncio.sleep(12)
                disk.empty()
                back = time.monotonic()
                await asyncio.sleep(8)
                stopped.set()
                await load
                outcome = await _settle(system, caller, since=back)
    except MountRefused as error:
        pytest.skip(f"NO FULL DISK TRIED: nothing can be mounted here ({error})")
    _report({"full_disk_seconds": 12, "before": before}, caller, outcome)
    assert (outcome.lost, outcome.dead_letters) == (0, 0)
    assert outcome.duplicates <= SLOTS
    assert outcome.seconds_to_end < SETTLE_SECONDS
    _assert_answers(caller)


def _settings(outages: Outages) -> dict[str, str]:
    return {
        "KAFKA_BOOTSTRAP_SERVERS": outages.url("kafka"),
        "KAFKA_REPLICATION_FACTOR": "1",
        "KAFKA_PARTITIONS": "4",
        "DATABASE_URL": outages.databases("outages"),
        "REDIS_URL": outages.url("valkey"),
        "IDENTITY_SERVICE_URL": outages.identity.url,
    }


async def check(outages: Outages, home: Path, plan: Plan) -> None:
    async with running_system(home / "home", **_settings(outages)) as system:
        caller = Caller(system, outages.identity.token("service"))
        stopped = asyncio.Event()
        load = asyncio.create_task(caller.run(plan.per_second, stopped))
        workers = system.pid("worker-1"), system.pid("api")
        await _happen(outages, plan)
        back = time.monotonic()
        await asyncio.sleep(plan.pause_seconds)
        stopped.set()
        await load
        outcome = await _settle(system, caller, since=back)
        assert (system.pid("worker-1"), system.pid("api")) == workers, "a process ended"
    _report({"outages": [vars(each) for each in plan.outages]}, caller, outcome)
    assert (outcome.lost, outcome.dead_letters) == (0, 0)
    assert outcome.duplicates <= SLOTS
    assert outcome.seconds_to_end < SETTLE_SECONDS
    _assert_answers(caller)


def _report(what: dict[str, Any], caller: Caller, outcome: Outcome) -> None:
    told = {"answers": dict(caller.statuses), "reads": dict(caller.reads), "unanswered": caller.unanswered}
    print(json.dumps({**what, **vars(outcome), **told, "slowest": round(caller.slowest_seconds, 1)}))


def _assert_answers(caller: Caller) -> None:
    assert set(caller.statuses) <= {202, 503} and caller.unanswered == 0
    assert set(caller.reads) <= {200, 503}
    assert caller.slowest_seconds < ANSWER_SECONDS


async def _happen(outages: Outages, plan: Plan) -> None:
    for outage in plan.outages:
        await asyncio.sleep(plan.pause_seconds)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(getattr(outages, outage.how)(outage.server))
            await asyncio.sleep(outage.seconds)


async def _settle(system: System, caller: Caller, *, since: float) -> Outcome:
    """Waits until every acknowledged id is in a final state, then compares with the sink's ledger."""
    ids = list(caller.acknowledged)
    database = await asyncpg.connect(system.settings["DATABASE_URL"])
    try:
        while (left := await _open(database, ids)) and time.monotonic() < since + 2 * SETTLE_SECONDS:
            await asyncio.sleep(0.25)
        seconds = round(time.monotonic() - since, 1)
        dead_letters = await database.fetchval("SELECT count(*) FROM delivery_failures")
    finally:
        await database.close()
    ledger: dict[str, Any] = (await system.ledger())["ledger"]
    promised = [str(delivery_id(each, Channel.EMAIL)) for each in ids]
    lost = [name for name in promised if not ledger.get(name, {}).get("accepted")]
    duplicates = sum(entry["accepted"] - 1 for entry in ledger.values() if entry["accepted"] > 1)
    return Outcome(len(ids), max(len(lost), left), duplicates, dead_letters, seconds)


async def _open(database: asyncpg.Connection, ids: list[UUID]) -> int:
    final = await database.fetchval(
        "SELECT count(*) FROM notifications WHERE id = ANY($1) AND rank >= $2", ids, ENDED_RANK
    )
    return len(ids) - int(final)
