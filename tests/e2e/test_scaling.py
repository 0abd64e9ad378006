"""Workers come and go under load: they share the partitions, nothing is lost, no partition stands still for long."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from bench.load import paced, percentile
from bench.system import System, free_port, running_system
from models.settings import Settings
from streams.queue_reader import QueueReader
from tests.e2e.test_faults import SLOTS, _settle
from tests.e2e.test_rebalance import PARTITIONS, gaps, lateness

LONGEST_STALL_SECONDS = 30.0
_ROOT = Path(__file__).resolve().parents[2]
LANE = "send-email-normal"


@dataclass(frozen=True)
class Plan:
    """Requests and their pace; when after the start two workers become four, and four become one."""

    count: int
    per_second: float
    four_seconds: float
    one_seconds: float


SHORT = Plan(3_600, 120, four_seconds=3, one_seconds=14)
LONG = Plan(30_000, 500, four_seconds=10, one_seconds=28)


class Crew:
    """Workers that nobody starts again, beside the one of `comms up`."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._provider = {
            "EMAIL_PROVIDERS": "sendgrid",
            "SENDGRID_API_KEY": "for-the-sink",
            "SENDGRID_BASE_URL": system.sink_url,
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    def add(self, *only: str) -> subprocess.Popen[bytes]:
        """Starts a worker; for these lanes, or all."""
        environment = {**os.environ, **self._system.settings, **self._provider, "METRICS_PORT": str(free_port())}
        chosen = [word for lane in only for word in ("--only", lane)]
        name = f"extra-{len(self.processes) + 1}.log"
        with (self._system.home / "log" / name).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "worker", *chosen],
                cwd=_ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    async def leave(self) -> None:
        """All go: the last one is killed, the others are asked to."""
        *asked, killed = self.processes
        for process in asked:
            process.send_signal(signal.SIGTERM)
        killed.kill()
        for process in self.processes:
            await asyncio.to_thread(process.wait, 40)

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.kill()
                process.wait(10)


@asynccontextmanager
async def crew(system: System) -> AsyncIterator[Crew]:
    made = Crew(system)
    try:
        yield made
    finally:
        made.end()


async def readers(system: System, count: int, *, lanes: tuple[str, ...] = (LANE,)) -> float:
    """Seconds until each of these lanes is read by so many processes."""
    started = time.monotonic()
    settings = Settings(
        database_url=system.settings["DATABASE_URL"],
        kafka_bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"],
    )
    reader = QueueReader(settings)
    try:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(KafkaError, TimeoutError):
                    found = await reader.read()
                    if all(found[lane].members == count for lane in lanes):
                        return time.monotonic() - started
                await asyncio.sleep(0.3)
    finally:
        await reader.close()


@pytest.mark.parametrize("plan", [SHORT, pytest.param(LONG, marks=pytest.mark.chaos)], ids=["short", "long"])
@pytest.mark.timeout(420)
async def test_two_workers_become_four_and_then_one(plan: Plan, tmp_path: Path) -> None:
    async with running_system(tmp_path / "home", KAFKA_PARTITIONS=str(PARTITIONS)) as system, crew(system) as extra:
        extra.add()
        await readers(system, 2)
        started = time.monotonic()
        load = asyncio.create_task(paced(system, plan.count, per_second=plan.per_second))
        await asyncio.sleep(plan.four_seconds)
        extra.add()
        extra.add()
        joined = await readers(system, 4)
        await asyncio.sleep(max(0.0, started + plan.one_seconds - time.monotonic()))
        assert [process.poll() for process in extra.processes] == [None] * 3, "a worker ended by itself"
        left = time.monotonic()
        await extra.leave()
        gone = time.monotonic() - left
        noted = await load
        outcome = await _settle(system, noted, since=left, within_seconds=150)
        ledger = (await system.ledger())["ledger"]
    assert outcome.lost == 0, outcome
    stalls, waits = gaps(noted, ledger), lateness(noted, ledger)
    figures = {
        "largest_gap_seconds": max(stalls.values()),
        "joined_after_seconds": joined,
        "left_after_seconds": gone,
        "wait_p50": percentile(waits, 0.5),
        "wait_p99": percentile(waits, 0.99),
        "wait_max": max(waits),
    }
    told = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps({"scaling": f"{plan.per_second:.0f}/s", **told, **vars(outcome)}))
    assert outcome.duplicates <= SLOTS, "more than the killed worker had in hand"
    assert max(stalls.values()) < LONGEST_STALL_SECONDS, stalls


@pytest.mark.timeout(300)
async def test_workers_share_the_lanes_and_one_that_dies_comes_back(tmp_path: Path) -> None:
    """`WORKERS=2`, and a third one for some of the lanes."""
    async with running_system(tmp_path / "home", workers=2, KAFKA_PARTITIONS="2") as system, crew(system) as extra:
        everything = (LANE, "requests-normal", "contacts", "delay-1h")
        await readers(system, 2, lanes=everything)
        extra.add("send-email-*", "contacts")
        await readers(system, 3, lanes=(LANE, "send-email-high", "contacts"))
        await readers(system, 2, lanes=("requests-normal", "delay-1h", "send-sms-low"))
        old = system.kill("worker-1")
        async with asyncio.timeout(60):
            while not (system.home / "run" / "worker-1.pid").exists() or system.pid("worker-1") == old:
                await asyncio.sleep(0.1)
        await readers(system, 2, lanes=("requests-normal", "delay-1h"))
        noted = await paced(system, 100, per_second=100)
        outcome = await _settle(system, noted, since=time.monotonic(), within_seconds=60)
    assert (outcome.lost, outcome.duplicates) == (0, 0)
