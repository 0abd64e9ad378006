"""A replay of dead letters goes on whatever is killed: all are sent, and none again that was recorded as sent."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.arrivals import ended
from bench.load import flood
from bench.system import System, running_system
from models.settings import Settings

SLOTS = Settings.model_fields["calls_in_flight"].default
COUNT = 400
KILLS = 3


@pytest.mark.timeout(300)
async def test_kill_9_of_the_worker_in_a_replay(tmp_path: Path) -> None:
    async with running_system(tmp_path / "home", KAFKA_PARTITIONS="4") as system:
        await system.behave(status=400)
        noted = await flood(system, COUNT, priority="normal")
        await ended(system, noted.at)
        await _buried(system)
        await system.behave()
        async with httpx.AsyncClient(base_url=system.api_url, headers=system.headers("admin"), timeout=15) as client:
            body = {"stage": "delivery", "reason": "a test", "rate": 50}
            asked = (await client.post("/dlq/replay", json=body)).raise_for_status().json()
            url = f"/dlq/replays/{asked['replay_id']}"
            for number in range(1, KILLS + 1):
                await _until(client, url, lambda told, least=number * COUNT // 5: told["replayed"] >= least)
                system.kill("worker-1")
            done = await _until(client, url, lambda told: told["state"] not in ("waiting", "running"))
        assert (done["state"], done["matched"], done["replayed"]) == ("done", COUNT, COUNT)
        accepted = await _accepted(system, len(noted.at))
    assert len(accepted) == COUNT
    assert sum(accepted) - COUNT <= KILLS * SLOTS


async def _buried(system: System) -> None:
    async with system.database() as database, asyncio.timeout(60):
        while await database.fetchval("SELECT count(*) FROM delivery_failures") < COUNT:
            await asyncio.sleep(0.1)


async def _until(client: httpx.AsyncClient, url: str, holds: Any) -> dict[str, Any]:
    async with asyncio.timeout(120):
        while True:
            told: dict[str, Any] = (await client.get(url)).raise_for_status().json()
            if holds(told):
                return told
            await asyncio.sleep(0.05)


async def _accepted(system: System, count: int) -> list[int]:
    """How often each delivery was taken by the provider, once all are recorded as sent."""
    async with system.database() as database, asyncio.timeout(60):
        while await database.fetchval("SELECT count(*) FROM notifications WHERE status = 'sent'") < count:
            await asyncio.sleep(0.1)
        left = "SELECT count(*) FROM delivery_failures WHERE generation > 0"
        assert await database.fetchval(left) == 0
    ledger = (await system.ledger())["ledger"]
    return [entry["accepted"] for entry in ledger.values() if entry.get("accepted")]
