"""The raw worker's rate on the same servers in the same run."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from aiokafka.admin import NewTopic

from bench.arrivals import arrived
from bench.groups import admin_of, joined
from bench.load import flood
from bench.raw_worker import EVENTS, GROUP, TABLE, TOPIC
from bench.system import System, cpu_seconds, end, frozen

_ROOT = Path(__file__).resolve().parents[1]
_PARTITIONS = 8
_WARM_UP = 1_000


async def raw_rate(system: System, count: int, *, workers: int) -> dict[str, Any]:
    """Messages a second through so many raw workers, and their CPU, while the service's own workers stand still."""
    with frozen([system.pid(name) for name in system.workers()]):
        await _prepare(system)
        with _raw_workers(system, workers) as pids:
            await joined(system, [GROUP], members=workers)
            await arrived(system, await flood(system, _WARM_UP, priority="normal", topic=TOPIC))
            with frozen(pids):
                noted = await flood(system, count, priority="normal", topic=TOPIC, first=_WARM_UP)
                used = sum(map(cpu_seconds, pids))
                started = time.time()
            await arrived(system, noted)
            took = await _last_row(system) - started
            used = sum(map(cpu_seconds, pids)) - used
    return {"raw_per_second": round(count / took), "raw_cpu_us_each": round(used / count * 1e6)}


@contextmanager
def _raw_workers(system: System, count: int) -> Iterator[list[int]]:
    command = [sys.executable, "-m", "bench.raw_worker", "--provider", system.sink_url]
    command += ["--bootstrap", system.settings["KAFKA_BOOTSTRAP_SERVERS"]]
    command += ["--database", system.settings["DATABASE_URL"], "--redis", system.settings["REDIS_URL"]]
    with ExitStack() as stack:
        processes = []
        for _ in range(count):
            processes.append(subprocess.Popen(command, cwd=_ROOT))
            stack.callback(end, processes[-1])
        yield [process.pid for process in processes]


async def _prepare(system: System) -> None:
    async with system.database() as database:
        await database.execute(TABLE)
    async with admin_of(system) as admin:
        await admin.create_topics([NewTopic(name, _PARTITIONS, 1) for name in (TOPIC, EVENTS)])


async def _last_row(system: System) -> float:
    async with system.database() as database:
        return float(await database.fetchval("SELECT extract(epoch FROM max(finished_at))::float8 FROM bench_raw"))
