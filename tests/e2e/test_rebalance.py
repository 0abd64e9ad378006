"""A worker joins and is killed under load: nothing is lost, and no partition stands still for long."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka.partitioner import murmur2

from bench.load import Acknowledged, paced, percentile
from bench.system import System, free_port, running_system
from models.enums import Channel
from models.ids import delivery_id
from tests.e2e.test_faults import SLOTS, _settle

PARTITIONS = 4
LONGEST_STALL_SECONDS = 15.0
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Plan:
    """Requests, their pace, and when after the start the second worker comes and is killed."""

    count: int
    per_second: float
    join_seconds: float
    kill_seconds: float


SHORT = Plan(4_500, 150, join_seconds=2, kill_seconds=12)
LONG = Plan(30_000, 500, join_seconds=10, kill_seconds=25)


@contextmanager
def second_worker(system: System) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A worker that nobody starts again, and its metrics page."""
    port = free_port()
    provider = {
        "EMAIL_PROVIDERS": "sendgrid",
        "SENDGRID_API_KEY": "for-the-sink",
        "SENDGRID_BASE_URL": system.sink_url,
    }
    environment = {**os.environ, **system.settings, **provider, "METRICS_PORT": str(port)}
    with (system.home / "log" / "second.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cli.main", "worker"], cwd=_ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            yield process, f"http://127.0.0.1:{port}/metrics"
        finally:
            process.kill()
            process.wait(10)


async def has_work(metrics: str) -> bool:
    """Whether the worker has finished records of the e-mail lane."""
    async with httpx.AsyncClient() as client:
        try:
            page = (await client.get(metrics)).text
        except httpx.HTTPError:
            return False
    lane = 'comms_lane_records_total{lane="send-email-normal"}'
    return any(line.startswith(lane) and float(line.split()[-1]) > 50 for line in page.splitlines())


@pytest.mark.parametrize("plan", [SHORT, pytest.param(LONG, marks=pytest.mark.chaos)], ids=["short", "long"])
@pytest.mark.timeout(300)
async def test_a_worker_joins_and_is_killed(plan: Plan, tmp_path: Path) -> None:
    async with running_system(tmp_path / "home", KAFKA_PARTITIONS=str(PARTITIONS)) as system:
        started = time.monotonic()
        load = asyncio.create_task(paced(system, plan.count, per_second=plan.per_second))
        await asyncio.sleep(plan.join_seconds)
        with second_worker(system) as (process, metrics):
            joined = time.monotonic()
            async with asyncio.timeout(30):
                while not await has_work(metrics):
                    await asyncio.sleep(0.2)
            took = time.monotonic() - joined
            await asyncio.sleep(max(0.0, started + plan.kill_seconds - time.monotonic()))
            assert process.poll() is None, "the second worker ended by itself"
            process.kill()
            killed = time.monotonic()
        noted = await load
        assert time.monotonic() - killed > LONGEST_STALL_SECONDS, "the load ended too early to show a stall"
        outcome = await _settle(system, noted, since=killed, within_seconds=120)
        ledger = (await system.ledger())["ledger"]
    assert outcome.lost == 0, outcome
    stalls, waits = gaps(noted, ledger), lateness(noted, ledger)
    figures = {
        "largest_gap_seconds": max(stalls.values()),
        "joined_after_seconds": took,
        "wait_p50": percentile(waits, 0.5),
        "wait_p99": percentile(waits, 0.99),
        "wait_max": max(waits),
    }
    told = {name: round(value, 2) for name, value in figures.items()}
    print(json.dumps({"rebalance": f"{plan.per_second:.0f}/s", **told, **vars(outcome)}))
    assert outcome.duplicates <= SLOTS
    assert max(stalls.values()) < LONGEST_STALL_SECONDS, stalls


def gaps(noted: Acknowledged, ledger: dict[str, Any]) -> dict[int, float]:
    """The longest time, by partition, in which the sink accepted nothing of it while it was fed."""
    accepted: dict[int, list[float]] = defaultdict(list)
    for name in noted.deliveries():
        user = ledger[name]["to"].split("@")[0].encode()
        accepted[(murmur2(user) & 0x7FFFFFFF) % PARTITIONS].append(ledger[name]["first_accepted_at"])
    last = max(noted.at.values())
    found = {}
    for partition, times in accepted.items():
        during = sorted(at for at in times if at <= last)
        found[partition] = max(after - before for before, after in pairwise([*during, last]))
    assert len(found) == PARTITIONS
    return found


def lateness(noted: Acknowledged, ledger: dict[str, Any]) -> list[float]:
    """Seconds from publishing to the provider's acceptance."""
    by_delivery = {str(delivery_id(one, Channel.EMAIL)): at for one, at in noted.at.items()}
    return [ledger[name]["first_accepted_at"] - at for name, at in by_delivery.items()]
