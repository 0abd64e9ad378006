"""kill -9 of each server: it comes back by itself to its address, with what it was given before."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from redis.asyncio import Redis

from cli.embedded.accounts import forget_reachable_folder
from cli.embedded.home import Home
from tests.fixtures.stack import Stack


@pytest.fixture(scope="module")
def servers() -> Iterator[Stack]:
    """A stack of its own, whose servers may be killed; run as root, Postgres can't reach its home."""
    folder = Path(tempfile.mkdtemp(prefix="comms, ümläut: "))
    stack = Stack(Home.open(folder))
    try:
        for name in ("kafka", "postgres", "valkey"):
            stack.start(name)
        yield stack
    finally:
        stack.stop()
        shutil.rmtree(folder, ignore_errors=True)
        forget_reachable_folder(folder)


def _kill(stack: Stack, name: str) -> int:
    pid = int(stack.home.pid_file(name).read_text())
    os.kill(pid, signal.SIGKILL)
    return pid


async def _again(stack: Stack, name: str, killed: int, ask: Callable[[], Awaitable[object]]) -> object:
    """What `ask` returns, once another process than the killed one answers it."""
    async with asyncio.timeout(30):
        while True:
            try:
                if int(stack.home.pid_file(name).read_text()) != killed:
                    return await ask()
            except Exception:
                await asyncio.sleep(0.1)
            await asyncio.sleep(0.02)


async def test_postgres_keeps_what_was_committed(servers: Stack) -> None:
    url = servers.settings("postgres")["DATABASE_URL"]

    async def execute(statement: str) -> object:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    await execute("CREATE TABLE kept AS SELECT 'committed' AS word")
    killed = _kill(servers, "postgres")
    assert await _again(servers, "postgres", killed, lambda: execute("SELECT word FROM kept")) == "committed"


async def test_valkey_keeps_what_it_answered(servers: Stack) -> None:
    url = servers.settings("valkey")["REDIS_URL"]
    async with Redis.from_url(url) as client:
        await client.set("word", "written")
    killed = _kill(servers, "valkey")

    async def get() -> object:
        async with Redis.from_url(url) as client:
            return await client.get("word")

    assert await _again(servers, "valkey", killed, get) == b"written"


async def test_kafka_keeps_what_it_acknowledged(servers: Stack) -> None:
    address = servers.settings("kafka")["KAFKA_BOOTSTRAP_SERVERS"]
    admin = AIOKafkaAdminClient(bootstrap_servers=address)
    await admin.start()
    await admin.create_topics([NewTopic("kept", 1, 1)])
    await admin.close()
    async with AIOKafkaProducer(bootstrap_servers=address, acks="all") as producer:
        await producer.send_and_wait("kept", b"acknowledged")
    killed = _kill(servers, "kafka")

    async def read() -> object:
        async with AIOKafkaConsumer("kept", bootstrap_servers=address, auto_offset_reset="earliest") as consumer:
            return (await asyncio.wait_for(consumer.getone(), timeout=10)).value

    assert await _again(servers, "kafka", killed, read) == b"acknowledged"
