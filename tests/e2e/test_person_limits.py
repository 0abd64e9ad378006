"""Twenty thousand messages of one person over the limit, and ten of another on the same partition behind them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import httpx
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from bench.load import flood, percentile
from bench.system import System, running_system
from streams.topics import TIERS, delay_topic
from tests.e2e.test_faults import _settle

#: The waits of the delay topics, in seconds, longest first.
WAITS = sorted((wait.total_seconds() for wait in TIERS.values()), reverse=True)


def hops(seconds: float) -> int:
    """How often a record that is due in so long enters a delay topic, by the contract: the largest tier that fits."""
    count = 0
    while seconds >= 1.0 and count < 100:
        seconds -= next(wait for wait in WAITS if wait <= seconds)
        count += 1
    return count + 1


@pytest.mark.timeout(1500)
@pytest.mark.chaos
async def test_one_persons_flood_leaves_at_the_limits_pace_and_holds_up_nobody(tmp_path: Path) -> None:
    count, per_second = 20_000, 25
    async with running_system(tmp_path / "home", latency_ms=5, KAFKA_PARTITIONS="1") as system:
        await define(system, "user", "general", permits=per_second, per_seconds=1, burst=per_second)
        begun = time.monotonic()
        flooded = await flood(system, count, priority="normal", users=1)
        ten = await flood(system, 10, priority="normal", first=1, users=1_000_000)
        outcome = await _settle(system, ten, since=time.monotonic(), within_seconds=60)
        ledger = (await system.ledger())["ledger"]
        waits = sorted(ledger[name]["starts"][0][0] - at for name, at in ten.deliveries().items())
        print(json.dumps({"fault": "ten behind a flood", "p95_s": round(percentile(waits, 95), 2), **vars(outcome)}))
        all_of = await _settle(system, flooded, since=begun, within_seconds=count / per_second + 120)
        ledger = (await system.ledger())["ledger"]
        starts = sorted(at for name in flooded.deliveries() for _, at in ledger[name]["starts"])
        took = starts[-1] - starts[0]
        entered = {tier: await length(system, delay_topic(tier)) for tier in TIERS}
        allowed = sum(hops(number / per_second + 5) for number in range(count))
        figures = {"seconds": round(took), "at_pace": count / per_second, "delay_records": entered, "allowed": allowed}
        print(json.dumps({"fault": "flood of one person", **figures, **vars(all_of)}))
    assert (outcome.lost, outcome.duplicates) == (0, 0)
    assert percentile(waits, 95) <= 5.0
    assert (all_of.lost, all_of.duplicates) == (0, 0)
    assert busiest(starts, seconds=10) <= per_second * 11 + per_second, "never faster than the limit"
    assert took <= count / per_second * 1.05 + 10
    assert sum(entered.values()) <= allowed


def busiest(starts: list[float], *, seconds: float) -> int:
    """The most calls in any stretch of so long."""
    most, first = 0, 0
    for number, at in enumerate(starts):
        while starts[first] < at - seconds:
            first += 1
        most = max(most, number - first + 1)
    return most


async def define(system: System, scope: str, target: str, **limit: int) -> None:
    async with httpx.AsyncClient() as client:
        url = f"{system.api_url}/rate-limits/{scope}/{target}"
        (await client.put(url, json=limit, headers=system.headers("admin"))).raise_for_status()
    await asyncio.sleep(3)  # the workers know it by then (two seconds are promised)


async def length(system: System, topic: str) -> int:
    """Records that were ever written to a topic."""
    consumer = AIOKafkaConsumer(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await consumer.start()
    try:
        ends = await consumer.end_offsets([TopicPartition(topic, 0)])
        return int(sum(ends.values()))
    finally:
        await consumer.stop()
