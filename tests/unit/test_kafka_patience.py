"""Kafka clients pause after a refused connection, and don't repeat themselves in the log."""

from __future__ import annotations

import asyncio
import logging

import pytest
from aiokafka.client import AIOKafkaClient

from streams import kafka_patience
from streams.kafka_patience import Seldom, mend_clients


def line(name: str, template: str, *values: object, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, template, values, None)


def test_a_line_that_repeats_itself_is_told_once() -> None:
    seldom = Seldom()
    told = [seldom.filter(line("aiokafka.client", "Unable connect to node with id %s", node)) for node in range(5)]
    assert told == [True, False, False, False, False]
    assert seldom.filter(line("aiokafka.client", "another"))
    assert seldom.filter(line("aiokafka.consumer", "Unable connect to node with id %s", 1))


def test_lines_of_our_own_are_all_told() -> None:
    seldom = Seldom()
    assert all(seldom.filter(line("streams.lanes", "same")) for _ in range(3))


async def test_a_refused_connection_is_followed_by_a_pause() -> None:
    """Guards aiokafka's private `_get_conn`, through which all its requests find their connection."""
    mend_clients()
    once = AIOKafkaClient._get_conn
    mend_clients()
    assert AIOKafkaClient._get_conn is once
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    began = asyncio.get_running_loop().time()
    assert await client._get_conn(7) is None
    assert asyncio.get_running_loop().time() - began >= kafka_patience.PAUSE_SECONDS * 0.9
    await client.close()


@pytest.mark.parametrize("is_dead", [True, False], ids=["dead", "forgetful"])
async def test_a_wait_for_metadata_ends_and_the_update_goes_on(is_dead: bool) -> None:
    """Guards aiokafka's private `_md_synchronizer` and what it waits for."""
    mend_clients()
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    updates = []

    async def update(*_: object) -> bool:
        updates.append(True)
        return True

    client._metadata_update = update
    client._md_update_fut = client._loop.create_future()  # an update is under way, they say
    client._md_update_waiter = client._loop.create_future()
    client._sync_task = asyncio.create_task(client._md_synchronizer())
    if is_dead:
        client._sync_task.cancel()
    await asyncio.sleep(0)
    assert await client.force_metadata_update() is False
    async with asyncio.timeout(5):
        while not updates:
            await asyncio.sleep(0.01)
    assert await client.force_metadata_update() is True
    client._sync_task.cancel()
