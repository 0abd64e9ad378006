"""Nothing acknowledged is lost: parts are killed under load, and a ledger compares what was promised with what came.

The short forms run with the suite, the long ones by `make chaos`; both print their figures.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from bench.load import Acknowledged, paced
from bench.system import System, running_system
from models.enums import Channel
from models.ids import delivery_id
from models.settings import Settings
from models.status import ENDED_RANK

#: Requests, pace per second, how often a worker and Kafka are killed, seconds between two kills.
SHORT = (1_500, 100.0, 2, 1, 5.0)
LONG = (10_000, 500.0, 5, 3, 2.2)
SLOTS = Settings.model_fields["calls_in_flight"].default


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    acknowledged: int
    lost: int
    duplicates: int
    seconds_to_end: float


@pytest.mark.parametrize("size", [SHORT, pytest.param(LONG, marks=pytest.mark.chaos)], ids=["short", "long"])
@pytest.mark.timeout(600)
async def test_kill_9_of_worker_and_kafka_loses_nothing(
    size: tuple[int, float, int, int, float], tmp_path: Path
) -> None:
    count, rate, worker_kills, kafka_kills, pause = size
    async with running_system(tmp_path / "a home", KAFKA_PARTITIONS="4") as system:
        load = asyncio.create_task(paced(system, count, per_second=rate, http_share=0.3))
        await _kill_in_turn(system, ["worker-1"] * worker_kills + ["kafka"] * kafka_kills, pause)
        last_kill = time.monotonic()
        noted = await load
        outcome = await _settle(system, noted, since=last_kill, within_seconds=120)
    _report("kill -9", size=count, outcome=outcome)
    assert outcome.lost == 0
    assert outcome.duplicates <= (worker_kills + kafka_kills) * SLOTS


@pytest.mark.timeout(300)
async def test_sigterm_under_load_loses_and_repeats_nothing(tmp_path: Path) -> None:
    async with running_system(tmp_path / "home", KAFKA_PARTITIONS="4", latency_ms=200.0) as system:
        load = asyncio.create_task(paced(system, 1_000, per_second=100, http_share=0.3))
        await asyncio.sleep(4)
        old = system.kill("worker-1", signal.SIGTERM)
        stopped = await _gone(system, "worker-1", old)
        outcome = await _settle(system, await load, since=time.monotonic(), within_seconds=60)
    _report("SIGTERM", size=1_000, outcome=outcome, seconds_to_stop=round(stopped, 1))
    assert (outcome.lost, outcome.duplicates) == (0, 0)
    assert stopped < 30


async def _kill_in_turn(system: System, names: list[str], pause_seconds: float) -> None:
    """Kafka's kills are spread among the workers'."""
    order = sorted(range(len(names)), key=lambda place: (place * 7) % len(names))
    for place in order:
        await asyncio.sleep(pause_seconds)
        async with asyncio.timeout(60):
            while not _kill(system, names[place]):
                await asyncio.sleep(0.1)


def _kill(system: System, name: str) -> bool:
    try:
        system.kill(name)
    except (FileNotFoundError, ProcessLookupError):
        return False
    return True


async def _gone(system: System, name: str, old: int) -> float:
    """Seconds until the part has another process than `old`."""
    started = time.monotonic()
    async with asyncio.timeout(60):
        while True:
            try:
                if system.pid(name) != old:
                    return time.monotonic() - started
            except FileNotFoundError:
                pass
            await asyncio.sleep(0.05)


async def _settle(system: System, noted: Acknowledged, *, since: float, within_seconds: float) -> Outcome:
    """Waits until every acknowledged id is in a final state, then compares with the sink's ledger."""
    ids = list(noted.at)
    database = await asyncpg.connect(system.settings["DATABASE_URL"])
    try:
        async with asyncio.timeout(max(1.0, since + within_seconds - time.monotonic())):
            while await _open(database, ids):
                await asyncio.sleep(0.25)
    except TimeoutError:
        pass
    ledger: dict[str, Any] = (await system.ledger())["ledger"]
    promised = noted.deliveries()
    lost = [name for name in promised if not ledger.get(name, {}).get("accepted")]
    try:
        left = await _open(database, ids)
        await _tell_of(database, noted, lost)
    finally:
        await database.close()
    duplicates = sum(entry["accepted"] - 1 for entry in ledger.values() if entry["accepted"] > 1)
    return Outcome(len(promised), max(len(lost), left), duplicates, round(time.monotonic() - since, 1))


async def _open(database: asyncpg.Connection, ids: list[UUID]) -> int:
    final = await database.fetchval(
        "SELECT count(*) FROM notifications WHERE id = ANY($1) AND rank >= $2", ids, ENDED_RANK
    )
    return len(ids) - int(final)


async def _tell_of(database: asyncpg.Connection, noted: Acknowledged, lost: Sequence[str]) -> None:
    """Prints where the first of the lost ones were last seen."""
    of = {str(delivery_id(one, Channel.EMAIL)): one for one in noted.at}
    for name in lost[:20]:
        status = await database.fetchval("SELECT status FROM notifications WHERE id = $1", of[name])
        attempts = await database.fetch("SELECT attempt, outcome FROM delivery_logs WHERE delivery_id = $1", UUID(name))
        print(json.dumps({"lost": str(of[name]), "is": status, "attempts": [dict(row) for row in attempts]}))


def _report(name: str, *, outcome: Outcome, **more: Any) -> None:
    print(json.dumps({"fault": name, **more, **vars(outcome)}))
