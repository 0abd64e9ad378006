"""Started before the servers are there, the parts wait, say for what, and become ready by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.system import free_port
from tests.fixtures.outages import Outages, own_servers
from tests.fixtures.service import a_request

ROOT = Path(__file__).parents[2]
SERVERS = ["kafka", "postgres", "valkey", "identity"]


@pytest.fixture
def outages() -> Iterator[Outages]:
    with own_servers(SERVERS) as running:
        yield running


@contextlib.asynccontextmanager
async def comms(part: str, environment: dict[str, str], log: Path) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A part of the service as a process of its own, killed at the end."""
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, "-m", "cli.main", part], cwd=ROOT, env=environment, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def until(client: httpx.AsyncClient, **servers: bool) -> dict[str, Any]:
    """What /ready says, once each of these servers is as told."""
    shown: dict[str, Any] = {}
    try:
        async with asyncio.timeout(60):
            while not servers or any(shown.get(name, {}).get("ok") is not ok for name, ok in servers.items()):
                with contextlib.suppress(httpx.TransportError):
                    shown = (await client.get("/ready")).json()
                    if not servers:
                        break
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"not as expected after a minute: {shown}")
    return shown


@pytest.mark.timeout(240)
async def test_parts_wait_for_their_servers_and_become_ready_by_themselves(outages: Outages, tmp_path: Path) -> None:
    port = free_port()
    environment = {
        **os.environ,
        "KAFKA_BOOTSTRAP_SERVERS": outages.url("kafka"),
        "KAFKA_REPLICATION_FACTOR": "1",
        "KAFKA_PARTITIONS": "2",
        "DATABASE_URL": outages.databases("late"),
        "REDIS_URL": outages.url("valkey"),
        "IDENTITY_SERVICE_URL": outages.url("identity"),
        "COMMS_HOME": "/nonexistent",
        "EMAIL_PROVIDERS": "",
        "HOST": "127.0.0.1",
        "PORT": str(port),
    }
    headers = outages.identity.headers()
    async with contextlib.AsyncExitStack() as stack:
        gone = await stack.enter_async_context(contextlib.AsyncExitStack())
        await gone.enter_async_context(outages.away(*SERVERS))
        parts = [
            await stack.enter_async_context(
                comms(part, {**environment, "METRICS_PORT": str(free_port())}, tmp_path / f"{part}.log")
            )
            for part in ("worker", "api")
        ]
        client = await stack.enter_async_context(
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=10)
        )
        await until(client, kafka=False, postgres=False, redis=False)
        assert (await client.get("/health")).status_code == 200
        assert (await client.post("/api/v1/notifications", json=a_request())).status_code == 503

        for name in ("redis", "identity", "postgres", "kafka"):
            await asyncio.to_thread(outages.bring_back, {"redis": "valkey"}.get(name, name))
            if name == "redis":
                await until(client, redis=True, kafka=False, postgres=False)
        # Both answer, and have neither tables nor topics.
        shown = await until(client, redis=True)
        async with asyncio.timeout(30):
            while "migrate" not in (shown["kafka"].get("missing") or ""):
                shown = (await client.get("/ready")).json()
        assert "migrate" in shown["postgres"]["missing"]
        await asyncio.sleep(3)
        subprocess.run([sys.executable, "-m", "cli.main", "migrate"], cwd=ROOT, env=environment, check=True)
        await until(client, kafka=True, postgres=True, redis=True)

        request = a_request(channel="in_app", content={"title": "Hello", "body": "There"}, recipient={})
        answer = await client.post("/api/v1/notifications", json=request)
        assert answer.status_code == 202, answer.text
        async with asyncio.timeout(60):
            while (await client.get(answer.json()["status_url"])).json()["status"] != "sent":
                await asyncio.sleep(0.2)
        assert [part.poll() for part in parts] == [None, None]
