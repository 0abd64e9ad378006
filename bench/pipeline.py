"""The pipeline as people run it: Kafka, Postgres, Valkey, the worker and a provider of 20 ms, all on this machine."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.arrivals import arrived, ended, latencies, waits
from bench.groups import joined
from bench.load import Acknowledged, flood, paced
from bench.system import System, frozen, running_system
from bench.targets import Target, line
from bench.yardstick import raw_rate
from models.enums import Priority

#: Whose CPU is told beside the worker's.
SERVERS = ("kafka", "postgres", "valkey")
_GROUPS = [f"comms-{hop}-{priority}" for hop in ("requests", "send-email") for priority in Priority]
#: Connections, caches, the JIT of the broker.
WARM_UP = 1_000
_TARGETS = {
    1: (Target("per_second", at_least=1_100), Target("ratio", at_least=0.4, aim=0.6)),
    2: (Target("per_second", at_least=1_600), Target("ratio", at_least=0.35, aim=0.5)),
}


@asynccontextmanager
async def fresh_system(*, workers: int = 1, to_sink: bool = True, **settings: str) -> AsyncIterator[System]:
    """A system of its own whose workers share the e-mail lanes already, gone afterwards."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        async with running_system(
            Path(folder), workers=workers, latency_ms=20.0, to_sink=to_sink, **settings
        ) as system:
            await joined(system, _GROUPS, members=workers)
            yield system


async def rate(system: System, count: int, *, first: int = WARM_UP) -> dict[str, Any]:
    """Notifications a second through both hops, rows and events; all are queued before the workers may begin."""
    names = system.workers()
    with frozen([system.pid(name) for name in names]):
        noted = await flood(system, count, priority="normal", first=first)
        before = {name: system.cpu_seconds(name) for name in (*names, *SERVERS)}
        started = time.time()
    await arrived(system, noted)
    took = await ended(system, noted.at) - started
    used = {name: system.cpu_seconds(name) - seconds for name, seconds in before.items()}
    by_component = {"worker": sum(used[name] for name in names), **{name: used[name] for name in SERVERS}}
    return {
        "notifications": count,
        "per_second": round(count / took),
        "cpu_us_each": {name: round(seconds / count * 1e6) for name, seconds in by_component.items()},
    }


async def throughput(count: int = 20_000, workers: int = 1) -> dict[str, Any]:
    """Notifications a second, and how that compares with a raw worker that does one hop."""
    async with fresh_system(workers=workers) as system:
        await arrived(system, await flood(system, WARM_UP, priority="normal"))
        figures = await rate(system, count)
        figures |= await raw_rate(system, count, workers=workers)
    figures["ratio"] = round(figures["per_second"] / figures["raw_per_second"], 2)
    name = "throughput" if workers == 1 else f"throughput-{workers}"
    return line(name, {"workers": workers, **figures}, *_TARGETS.get(workers, ()))


async def urgent_behind_bulk(bulk: int = 50_000, urgent: int = 400) -> dict[str, Any]:
    """Time from publish to provider on `high` while `low` has a backlog in the same process."""
    async with fresh_system() as system:
        await arrived(system, await flood(system, 200, priority="high"))
        await flood(system, bulk, priority="low", first=1_000)
        noted = await paced(system, urgent, per_second=20, priority="high")
        accepted = (await system.summary())["accepted"]
        await arrived(system, noted)
        seconds = await waits(system, noted)
    figures = {"bulk": bulk, "bulk_left": bulk - (accepted - urgent - 200), **latencies(seconds)}
    return line("urgent-behind-bulk", figures, Target("p95_ms", at_most=300), Target("bulk_left", at_least=1))


async def quiet_latency(count: int = 4_000, per_second: float = 200.0) -> dict[str, Any]:
    """Time from publish to provider at a pace far below the limit."""
    async with fresh_system() as system:
        await arrived(system, await paced(system, 400, per_second=per_second))
        noted = await paced(system, count, per_second=per_second)
        await arrived(system, noted)
        seconds = await waits(system, noted)
    figures = {"per_second": per_second, **latencies(seconds)}
    return line("quiet-latency", figures, Target("p50_ms", at_most=80, aim=45), Target("p99_ms", at_most=200))


async def memory(count: int = 50_000) -> dict[str, Any]:
    """The most that a worker holds while it works off a queue."""
    async with fresh_system() as system:
        await arrived(system, await flood(system, WARM_UP, priority="normal"))
        before = system.resident_mb("worker-1")
        watching = asyncio.create_task(_most_resident(system))
        try:
            noted = await _flood_all_lanes(system, count)
            await arrived(system, noted)
        finally:
            watching.cancel()
            most = (await asyncio.gather(watching, return_exceptions=True))[0]
        assert isinstance(most, float)
    figures = {"queued": count, "before_mb": round(before, 1), "most_mb": round(most, 1)}
    return line("memory", figures, Target("most_mb", at_most=250))


async def _flood_all_lanes(system: System, count: int) -> Acknowledged:
    """Most in one lane, some in the other two: their buffers are full at the same time."""
    both = Acknowledged()
    for number, (priority, share) in enumerate((("normal", 0.6), ("low", 0.2), ("high", 0.2))):
        part = await flood(system, int(count * share), priority=priority, first=number * count)
        both.at |= part.at
    return both


async def _most_resident(system: System) -> float:
    """Until it is cancelled."""
    most = 0.0
    try:
        while True:
            most = max(most, system.resident_mb("worker-1"))
            await asyncio.sleep(0.1)
    except asyncio.CancelledError:
        return most


async def smtp(count: int = 5_000) -> dict[str, Any]:
    """Notifications a second by SMTP, to the mail catcher that writes each as a file."""
    async with fresh_system(to_sink=False) as system:
        await ended(system, (await flood(system, 500, priority="normal")).at)
        with frozen([system.pid("worker-1")]):
            noted = await flood(system, count, priority="normal", first=500)
            used = {name: system.cpu_seconds(name) for name in ("worker-1", "mail")}
            started = time.time()
        took = await ended(system, noted.at) - started
        used = {name: system.cpu_seconds(name) - seconds for name, seconds in used.items()}
        caught = len(list((system.home / "mail").glob("[0-9]*.eml")))
    figures = {
        "notifications": count,
        "per_second": round(count / took),
        "caught": caught,
        "cpu_us_each": {name: round(seconds / count * 1e6) for name, seconds in used.items()},
    }
    return line("smtp", figures, Target("caught", at_least=count + 500))
