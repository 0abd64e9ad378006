# ruff: noqa: T201  an example prints
"""Follows what becomes of notifications, by the topic `notification.status`.

    KAFKA_BOOTSTRAP_SERVERS=localhost:9094 python examples/consume.py

Needs only `aiokafka`. Ends after --count events, else with Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections import OrderedDict
from typing import Any

from aiokafka import AIOKafkaConsumer

TOPIC = os.environ.get("KAFKA_TOPIC_PREFIX", "") + "notification.status"
#: Events come at least once. A real service keeps the ids in the database that its effects go to, in one transaction.
REMEMBERED = 100_000


class Seen:
    """The newest event ids."""

    def __init__(self) -> None:
        self._ids: OrderedDict[str, None] = OrderedDict()

    def is_new(self, event_id: str) -> bool:
        """Whether this event was not seen before; from now on it was."""
        if event_id in self._ids:
            return False
        self._ids[event_id] = None
        if len(self._ids) > REMEMBERED:
            self._ids.popitem(last=False)
        return True


def handle(event: dict[str, Any]) -> None:
    """Whatever your service does with it."""
    about = event.get("channel", "notification")
    print(event["timestamp"], event["notification_id"], about, event["status"], event.get("reason", ""), flush=True)


async def consume(group: str, count: int | None) -> None:
    """Handles each event once, and commits only what was handled."""
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9094"),
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    seen = Seen()
    handled = 0
    await consumer.start()
    try:
        async for record in consumer:
            event = json.loads(record.value)
            if seen.is_new(event["event_id"]):
                handle(event)
                handled += 1
            await consumer.commit()
            if handled == count:
                return
    finally:
        await consumer.stop()


def main() -> None:
    """Reads the options, and consumes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--group", default="example-consumer")
    parser.add_argument("--count", type=int, default=None)
    options = parser.parse_args()
    asyncio.run(consume(options.group, options.count))


if __name__ == "__main__":
    main()
