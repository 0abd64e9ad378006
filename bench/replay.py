"""How fast dead letters go back: those of a provider that refused everything, replayed by the worker."""

from __future__ import annotations

import asyncio
import time
from datetime import datetime
from typing import Any

import httpx

from bench.arrivals import Stalled, arrived, ended
from bench.load import flood
from bench.pipeline import WARM_UP, fresh_system
from bench.system import System
from bench.targets import Target, line

_PATIENCE_SECONDS = 300.0
#: The highest that a replay may ask for: not to be the limit here.
_RATE = 10_000


async def replay(count: int = 5_000) -> dict[str, Any]:
    """Letters a second, from the request over HTTP to the last record back on its topic; and until all were sent."""
    async with fresh_system() as system:
        await arrived(system, await flood(system, WARM_UP, priority="normal"))
        await system.behave(status=400)
        noted = await flood(system, count, priority="normal", first=WARM_UP)
        await ended(system, noted.at)
        await _buried(system, count)
        await system.behave()
        started, before = time.time(), system.cpu_seconds("worker-1")
        done = await _replayed(system)
        replay_cpu = system.cpu_seconds("worker-1") - before
        sent_at = await arrived(system, noted)
        cpu = system.cpu_seconds("worker-1") - before
        calls = (await system.summary())["accepted"] - WARM_UP
    took = (_moment(done["finished_at"]) - _moment(done["created_at"])).total_seconds()
    figures = {
        "letters": count,
        "replayed": done["replayed"],
        "per_second": round(count / took),
        "sent_per_second": round(count / (sent_at - started)),
        # The worker sends what is back already while it replays the rest.
        "cpu_us_each_while_replaying": round(replay_cpu / count * 1e6),
        "cpu_us_each_until_sent": round(cpu / count * 1e6),
        "sent_twice": calls - count,
    }
    replayed = Target("replayed", at_least=count)
    return line("replay", figures, Target("per_second", at_least=500), replayed, Target("sent_twice", at_most=0))


async def _buried(system: System, count: int) -> None:
    """Waits until all are in the index."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    async with system.database() as database:
        while time.monotonic() < deadline:
            if await database.fetchval("SELECT count(*) FROM delivery_failures") >= count:
                return
            await asyncio.sleep(0.2)
    raise Stalled("some did not become dead letters")


async def _replayed(system: System) -> dict[str, Any]:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    async with httpx.AsyncClient(base_url=system.api_url, headers=system.headers("admin"), timeout=15) as client:
        body = {"stage": "delivery", "reason": "a benchmark", "rate": _RATE}
        asked = (await client.post("/dlq/replay", json=body)).raise_for_status().json()
        while time.monotonic() < deadline:
            told: dict[str, Any] = (await client.get(f"/dlq/replays/{asked['replay_id']}")).raise_for_status().json()
            if told["state"] not in ("waiting", "running"):
                return told
            await asyncio.sleep(0.1)
    raise Stalled("the replay did not end")


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
