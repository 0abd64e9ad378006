"""The API while servers it depends on are away: it starts, says what is missing, and recovers by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import uvicorn

from api.app import create_app
from cli.embedded.identity import create_app as identity_app
from cli.embedded.identity import sign
from models.settings import Settings
from tests.fixtures.api import an_api, served
from tests.fixtures.service import a_request, a_service

if TYPE_CHECKING:
    from tests.fixtures.stack import Databases, Identity

PATH = "/api/v1/notifications"
ROOT = Path(__file__).parents[2]


def a_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Gate:
    """A door in front of a server that can be shut: connections end, new ones are refused."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._target = (host, int(port))
        self.port = a_free_port()
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", self.port)

    async def shut(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*self._target)
        self._writers |= {writer, there_writer}
        await asyncio.gather(_pump(reader, there_writer), _pump(there_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.close()


async def until_ready(client: httpx.AsyncClient, status: int = 200) -> dict[str, Mapping[str, object]]:
    async with asyncio.timeout(20):
        while True:
            answer = await client.get("/ready")
            if answer.status_code == status:
                found: dict[str, Mapping[str, object]] = answer.json()
                return found
            await asyncio.sleep(0.1)


@pytest.fixture(scope="module")
async def nowhere() -> Settings:
    """Settings under which no server answers."""
    port = a_free_port()
    return Settings(
        kafka_bootstrap_servers=f"127.0.0.1:{port}",
        database_url=f"postgresql://nobody@127.0.0.1:{port}/none",
        redis_url=f"redis://127.0.0.1:{port}/0",
        identity_service_url=f"http://127.0.0.1:{port}",
    )


@pytest.fixture(scope="module")
async def lonely(nowhere: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """An API that has no server to work with."""
    async with (
        served(create_app(nowhere), nowhere) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client,
    ):
        yield client


async def test_it_starts_without_any_server_and_names_them(lonely: httpx.AsyncClient) -> None:
    assert (await lonely.get("/health")).status_code == 200
    answer = await lonely.get("/ready")
    assert answer.status_code == 503
    found = answer.json()
    assert found["status"] == "not ready"
    for name in ("kafka", "postgres", "redis"):
        assert found[name]["ok"] is False and found[name]["missing"]
    assert answer.elapsed.total_seconds() < 4


async def test_nobody_gets_in_while_identity_is_down(lonely: httpx.AsyncClient) -> None:
    answer = await lonely.get(PATH, headers={"Authorization": "Bearer anything"})
    assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
    assert int(answer.headers["retry-after"]) >= 1


async def test_without_postgres_the_answer_is_503_and_has_the_id(nowhere: Settings) -> None:
    key, port = "k" * 32, a_free_port()
    config = uvicorn.Config(identity_app(key), port=port, log_level="error")
    stand_in = uvicorn.Server(config)
    settings = nowhere.model_copy(update={"identity_service_url": f"http://127.0.0.1:{port}"})
    opened = socket.create_server(("127.0.0.1", port))
    task = asyncio.create_task(stand_in._serve([opened]))
    token = sign(key, user_id="tester", roles=["service"], ttl=timedelta(hours=1))
    async with (
        served(create_app(settings), settings) as own,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{own}", timeout=10) as client,
    ):
        client.headers["Authorization"] = f"Bearer {token}"
        request = a_request()
        answer = await client.post(PATH, json=request)
        assert (answer.status_code, answer.json()["notification_id"]) == (503, request["id"])
        assert answer.headers["retry-after"]
        assert (await client.get(f"{PATH}/{request['id']}")).status_code == 503
    stand_in.should_exit = True
    await task


async def test_kafka_away_means_the_outbox_and_it_recovers(
    kafka: str, postgres: Databases, migrated: str, valkey: str, identity: Identity
) -> None:
    async with a_service(kafka, postgres, migrated, valkey) as service:
        # Nothing listens there: the broker of these settings never comes.
        service.settings = service.settings.model_copy(update={"kafka_bootstrap_servers": f"127.0.0.1:{a_free_port()}"})
        async with an_api(service, identity) as api:
            answer = await api.sender.post(PATH, json=a_request())
            assert (answer.status_code, answer.json()["status"]) == (202, "accepted")
            assert (await api.sender.get(answer.json()["status_url"])).status_code == 200
            rows = await service.fetch("SELECT topic FROM message_queue ORDER BY id")
            assert "notification.requests.normal" in {row.topic for row in rows}
            ready = await until_ready(api.sender, 503)
            assert ready["kafka"]["ok"] is False and ready["postgres"]["ok"] is True


async def test_postgres_and_redis_may_go_and_come_back(
    kafka: str, postgres: Databases, migrated: str, valkey: str, identity: Identity
) -> None:
    url = httpx.URL(postgres("gated", template=migrated))
    gate = Gate(f"{url.host}:{url.port}")
    await gate.open()
    async with a_service(kafka, postgres, migrated, valkey) as service:
        service.settings = service.settings.model_copy(
            update={"database_url": str(url.copy_with(port=gate.port, scheme="postgresql+asyncpg"))}
        )
        async with an_api(service, identity) as api:
            assert (await until_ready(api.sender))["status"] == "ready"
            assert (await api.sender.post(PATH, json=a_request())).status_code == 202
            await gate.shut()
            answer = await api.sender.post(PATH, json=a_request())
            assert (answer.status_code, answer.json()["status"]) == (202, "accepted")  # by its marker
            assert (await until_ready(api.sender, 503))["postgres"]["ok"] is False
            await gate.open()
            await until_ready(api.sender)
            assert (await api.sender.post(PATH, json=a_request())).status_code == 202
            await gate.shut()


# -- the command


def run(environment: Mapping[str, str], *, seconds: float = 20) -> subprocess.CompletedProcess[str]:
    """`comms api` in an environment that has nothing else."""
    clean = {"PATH": os.environ["PATH"], "COMMS_HOME": "/nonexistent", "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-m", "cli.main", "api"],
        env=clean | dict(environment),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def test_a_missing_setting_is_named() -> None:
    done = run({})
    assert done.returncode != 0
    assert done.stderr.strip() == "comms: DATABASE_URL: is not set"


@pytest.mark.parametrize("name", ["PORT", "METRICS_PORT"])
def test_a_taken_port_is_named(name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        ports = {"PORT": str(a_free_port()), "METRICS_PORT": str(a_free_port()), name: str(taken.getsockname()[1])}
        done = run({"DATABASE_URL": "postgresql://x@127.0.0.1:1/x", "HOST": "127.0.0.1"} | ports)
    assert done.returncode != 0
    assert done.stderr.strip().startswith(f"comms: {name}: ")
    assert len(done.stderr.strip().splitlines()) == 1


async def test_the_command_serves_metrics_and_ends_on_sigterm() -> None:
    port, metrics_port = a_free_port(), a_free_port()
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "COMMS_HOME": "/nonexistent",
        "DATABASE_URL": "postgresql://x@127.0.0.1:1/x",
        "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "ROOT_PATH": "/comms",
        "HOST": "127.0.0.1",
        "PORT": str(port),
        "METRICS_PORT": str(metrics_port),
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", "cli.main", "api", env=environment)
    try:
        async with httpx.AsyncClient() as client, asyncio.timeout(30):
            while True:
                try:
                    answer = await client.get(f"http://127.0.0.1:{port}/health")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.1)
            assert answer.json() == {"status": "ok"}
            assert (await client.get(f"http://127.0.0.1:{port}/comms/health")).status_code == 200
            metrics = (await client.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
        assert 'comms_http_requests_total{method="GET",route="/health",status="200"}' in metrics
    finally:
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            await process.wait()
