"""How many requests a second one API process takes, next to a bare FastAPI and aiokafka endpoint."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from bench.bare_api import TOPIC
from bench.pipeline import SERVERS, fresh_system
from bench.system import System, cpu_seconds, end, free_port, frozen
from bench.targets import Target, line

_ROOT = Path(__file__).resolve().parents[1]
_WARM_UP_SECONDS = 2.0


async def intake(seconds: float = 15.0, connections: int = 64) -> dict[str, Any]:
    """Both by the same client on the same Kafka, one after the other; the workers stand still meanwhile."""
    async with fresh_system() as system:
        token = system.headers()["Authorization"].split()[1]
        post = partial(posts, connections=connections, token=token)
        with frozen([system.pid(name) for name in system.workers()]):
            await post(system.port, seconds=_WARM_UP_SECONDS)
            before = {name: system.cpu_seconds(name) for name in ("api", *SERVERS)}
            own = await post(system.port, seconds=seconds)
            used = {name: system.cpu_seconds(name) - cpu for name, cpu in before.items()}
            async with _bare_api(system) as (port, pid):
                await post(port, seconds=_WARM_UP_SECONDS)
                bare_before = cpu_seconds(pid)
                bare = await post(port, seconds=seconds)
                bare_used = cpu_seconds(pid) - bare_before
    figures = {
        "connections": connections,
        "per_second": own["per_second"],
        "bare_per_second": bare["per_second"],
        "ratio": round(own["per_second"] / bare["per_second"], 2),
        "p50_ms": own["p50_ms"],
        "p99_ms": own["p99_ms"],
        "bare_p99_ms": bare["p99_ms"],
        "cpu_us_each": {name: round(cpu / own["answers"] * 1e6) for name, cpu in used.items()},
        "bare_cpu_us_each": round(bare_used / bare["answers"] * 1e6),
        "client_cpu_us_each": own["client_cpu_us_each"],
        "refused": own["answers"] - own["statuses"].get("202", 0),
        "bare_refused": bare["answers"] - bare["statuses"].get("202", 0),
    }
    return line("intake", figures, Target("ratio", at_least=0.5, aim=0.8), *_nothing_refused("refused", "bare_refused"))


def _nothing_refused(*figures: str) -> list[Target]:
    return [Target(figure, at_most=0) for figure in figures]


async def posts(port: int, *, token: str, connections: int, seconds: float) -> dict[str, Any]:
    """One run of the client, in a process of its own."""
    command = [sys.executable, "-m", "bench.http_load", "--port", str(port), "--token", token]
    command += ["--connections", str(connections), "--seconds", str(seconds)]
    client = await asyncio.create_subprocess_exec(*command, cwd=_ROOT, stdout=asyncio.subprocess.PIPE)
    try:
        told, _ = await client.communicate()
    finally:
        if client.returncode is None:
            client.kill()
            await client.wait()
    if client.returncode != 0:
        raise RuntimeError(f"the client ended with exit code {client.returncode}")
    found: dict[str, Any] = orjson.loads(told)
    return found


@asynccontextmanager
async def _bare_api(system: System) -> AsyncIterator[tuple[int, int]]:
    """Its port and pid, once it listens."""
    bootstrap = system.settings["KAFKA_BOOTSTRAP_SERVERS"]
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(TOPIC, 8, 1)])
    finally:
        await admin.close()
    port = free_port()
    command = [sys.executable, "-m", "bench.bare_api", "--bootstrap", bootstrap, "--port", str(port)]
    process = subprocess.Popen(command, cwd=_ROOT)
    try:
        await _listens(port)
        yield port, process.pid
    finally:
        end(process)


async def _listens(port: int) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return
