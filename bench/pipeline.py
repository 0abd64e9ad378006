"""The pipeline as people run it: Kafka, Postgres, Valkey, the worker and a provider of 20 ms, all on this machine."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.load import Acknowledged, flood, paced, percentile
from bench.system import System, running_system

_DEADLINE_SECONDS = 300.0


async def throughput(count: int = 20_000, workers: int = 1) -> dict[str, Any]:
    """Notifications a second through both hops, rows and events, with everything queued beforehand."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_system(Path(folder), workers=workers) as system:
            await _arrived(
                system, await flood(system, 500, priority="normal")
            )  # connections, caches, JIT of the broker
            names = [f"worker-{number}" for number in range(1, workers + 1)]
            before = sum(system.cpu_seconds(name) for name in names)
            others = {name: system.cpu_seconds(name) for name in ("kafka", "postgres")}
            started = time.time()
            noted = await flood(system, count, priority="normal", first=500)
            took = await _arrived(system, noted) - started
            used = sum(system.cpu_seconds(name) for name in names) - before
            return {
                "bench": "throughput",
                "workers": workers,
                "notifications": count,
                "per_second": round(count / took),
                "worker_cpu_us_each": round(used / count * 1e6),
                **{
                    f"{name}_cpu_us_each": round((system.cpu_seconds(name) - cpu) / count * 1e6)
                    for name, cpu in others.items()
                },
            }


async def urgent_behind_bulk(bulk: int = 50_000, urgent: int = 400) -> dict[str, Any]:
    """Time from publish to provider on `high` while `low` has a backlog in the same process."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_system(Path(folder)) as system:
            await _arrived(system, await flood(system, 200, priority="high"))
            await flood(system, bulk, priority="low", first=1_000)
            noted = await paced(system, urgent, per_second=20, priority="high")
            await _arrived(system, noted)
            accepted = (await system.summary())["accepted"]
            waits = await _waits(system, noted)
            return {
                "bench": "urgent_behind_bulk",
                "bulk": bulk,
                "bulk_left": bulk - (accepted - urgent - 200),
                **_latencies(waits),
            }


async def quiet_latency(count: int = 4_000, per_second: float = 200.0) -> dict[str, Any]:
    """Time from publish to provider at a pace far below the limit."""
    with tempfile.TemporaryDirectory() as folder:
        async with running_system(Path(folder)) as system:
            await _arrived(system, await paced(system, 400, per_second=per_second))
            noted = await paced(system, count, per_second=per_second)
            await _arrived(system, noted)
            return {"bench": "quiet_latency", "per_second": per_second, **_latencies(await _waits(system, noted))}


async def _arrived(system: System, noted: Acknowledged) -> float:
    """Waits until the sink has taken all; returns the time of the last."""
    wanted = noted.deliveries()
    deadline = time.monotonic() + _DEADLINE_SECONDS
    before = (await system.summary())["accepted"]
    while time.monotonic() < deadline:
        await asyncio.sleep(0.1)
        accepted = (await system.summary())["accepted"]
        if accepted == before and accepted >= len(wanted):
            entries = await _entries(system, wanted)
            if len(entries) == len(wanted):
                return max(float(entry["first_accepted_at"]) for entry in entries.values())
        before = accepted
    raise TimeoutError(f"{len(wanted)} notifications did not arrive within {_DEADLINE_SECONDS:.0f} s")


async def _entries(system: System, wanted: Mapping[str, float]) -> dict[str, Any]:
    ledger = (await system.ledger())["ledger"]
    return {name: ledger[name] for name in wanted if ledger.get(name, {}).get("accepted")}


async def _waits(system: System, noted: Acknowledged) -> list[float]:
    published = noted.deliveries()
    entries = await _entries(system, published)
    return [entry["first_at"] - published[name] for name, entry in entries.items()]


def _latencies(waits: list[float]) -> dict[str, float]:
    return {f"p{round(share * 100)}_ms": round(percentile(waits, share) * 1000, 1) for share in (0.5, 0.95, 0.99)} | {
        "max_ms": round(max(waits) * 1000, 1)
    }
