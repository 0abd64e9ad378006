"""Kafka clients pause after a refused connection, and don't repeat themselves in the log."""

from __future__ import annotations

import asyncio
import logging

from aiokafka.client import AIOKafkaClient

from streams import kafka_patience
from streams.kafka_patience import Seldom, pause_between_connections


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
    pause_between_connections()
    once = AIOKafkaClient._get_conn
    pause_between_connections()
    assert AIOKafkaClient._get_conn is once
    client = AIOKafkaClient(bootstrap_servers="127.0.0.1:1")
    began = asyncio.get_running_loop().time()
    assert await client._get_conn(7) is None
    assert asyncio.get_running_loop().time() - began >= kafka_patience.PAUSE_SECONDS * 0.9
    await client.close()
