"""A pause after each connection that a broker refused.

aiokafka has none: each consumer of each lane asks several times every tenth of a second, each time with two lines of
log. While Kafka was away the lanes of one process used a third of a core and wrote 380 kB of log a second (measured),
just when the API needs the machine for the outbox.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from typing import Any

from aiokafka.client import AIOKafkaClient

#: As Kafka's own clients do it (`reconnect.backoff.max.ms`).
PAUSE_SECONDS = 1.0
#: A line of a client's log that repeats itself is told this often.
SELDOM_SECONDS = 10.0


def pause_between_connections() -> None:
    """Makes all Kafka clients of the process wait after a refused connection. Doing it again does nothing."""
    original = AIOKafkaClient._get_conn
    if getattr(original, "pauses", False):
        return

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
