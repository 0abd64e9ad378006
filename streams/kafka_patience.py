"""What aiokafka's clients lack while a broker is away: a pause, and an end of waiting for metadata.

**A pause after each connection that a broker refused.**

aiokafka has none: each consumer of each lane asks several times every tenth of a second, each time with two lines of
log. While Kafka was away the lanes of one process used a third of a core and wrote 380 kB of log a second (measured),
just when the API needs the machine for the outbox.

**An end of waiting.** In a minute without Kafka at 300/s the task that updates a client's metadata may die (of a
RuntimeError, which nothing there expects). All that wait for an update then wait without end, a consumer's coordinator
with the lock in its hand that heartbeats and commits need too: two lanes stood still until the watchdog came.
Such a wait now ends after ten seconds, and the task is begun again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any

import structlog
from aiokafka.client import AIOKafkaClient

log = structlog.get_logger()

#: As Kafka's own clients do it (`reconnect.backoff.max.ms`).
PAUSE_SECONDS = 1.0
#: An update that has not come by then is not on its way.
METADATA_SECONDS = 10.0
#: A line of a client's log that repeats itself is told this often.
SELDOM_SECONDS = 10.0


def mend_clients() -> None:
    """Gives all Kafka clients of the process what they lack. Doing it again does nothing."""
    if not getattr(AIOKafkaClient._get_conn, "pauses", False):
        _pause_between_connections()
        _end_waits_for_metadata()


def _end_waits_for_metadata() -> None:
    original = AIOKafkaClient.force_metadata_update

    @functools.wraps(original)
    def force_metadata_update(self: Any) -> asyncio.Future[Any]:
        update: asyncio.Future[Any] = original(self)
        mended: asyncio.Task[Any] = self._loop.create_task(_in_time(self, update))
        return mended

    AIOKafkaClient.force_metadata_update = force_metadata_update


async def _in_time(client: Any, update: asyncio.Future[Any]) -> Any:
    """Whether the metadata was updated; the client's task for it is woken, or begun again, when that takes too long."""
    try:
        return await asyncio.wait_for(update, METADATA_SECONDS)
    except TimeoutError:
        pass
    task = client._sync_task
    if task is not None and task.done():
        error = None if task.cancelled() else task.exception()
        log.warning("kafka metadata: nobody was there to update it; begun again", error=type(error).__name__)
        client._sync_task = client._loop.create_task(client._md_synchronizer())
    if not client._md_update_waiter.done():
        log.warning("kafka metadata: the update was forgotten; asked for again")
        client._md_update_waiter.set_result(None)
    return False


def _pause_between_connections() -> None:
    original = AIOKafkaClient._get_conn

    @functools.wraps(original)
    async def get_conn(self: Any, *arguments: Any, **options: Any) -> Any:
        connection = await original(self, *arguments, **options)
        if connection is None:
            await asyncio.sleep(PAUSE_SECONDS)
        return connection

    get_conn.pauses = True  # type: ignore[attr-defined]
    AIOKafkaClient._get_conn = get_conn


class Seldom(logging.Filter):
    """Lets a line of a Kafka client through that was not told a moment ago, by its template, not its values."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to tell it."""
        if not record.name.startswith("aiokafka") or record.levelno < logging.WARNING:
            return True
        key, now = (record.name, str(record.msg)), time.monotonic()
        if now - self._told.get(key, float("-inf")) < SELDOM_SECONDS:
            return False
        self._told[key] = now
        return True
