"""Looks at the lanes from outside, for the watchdog: a lane that has lag and reads nothing can't tell so itself.

A lane moves when its commits do. One that is behind the end of its topic and does not move, or that is in no consumer
group although Kafka answers, ought to be getting on (docs/decisions/0002-lanes.md: a consumer that was stalled too long
leaves its group and never comes back).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import faust
import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError
from mode import Service

from models.settings import Settings
from streams.kafka import client_options
from streams.metrics import LAG
from streams.watchdog import holds, progress_of

log = structlog.get_logger()

_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
_TELL_SECONDS = 60.0


async def watch_lanes(services: Sequence[Service], settings: Settings) -> None:
    """Looks at all lanes every few seconds, until cancelled; says once a minute which of them hold, and why."""
    watch = LaneWatch([service for service in services if isinstance(service, faust.App)], Ends(settings))
    told_at = 0.0
    loop = asyncio.get_running_loop()
    try:
        while True:
            await watch.look()
            if loop.time() - told_at > _TELL_SECONDS:
                told_at = loop.time()
                if held := holds():
                    log.warning("lanes hold", lanes=held)
            await asyncio.sleep(_LOOK_SECONDS)
    finally:
        await watch.close()


class Ends:
    """Where the partitions of topics end.

    Asked by a client of our own: the lanes' own clients have a queue for what other threads ask of them, and what a
    broker that is away leaves in there would be in the lanes' way long after it is back.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._consumer: AIOKafkaConsumer | None = None

    async def read(self, partitions: Iterable[TopicPartition]) -> Mapping[TopicPartition, int] | None:
        """The ends of all these; None where Kafka doesn't tell in time."""
        wanted = set(partitions)
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                consumer = await self._connected()
                if wanted != consumer.assignment():
                    consumer.assign(wanted)
                    consumer.pause(*wanted)
                ends: Mapping[TopicPartition, int] = await consumer.end_offsets(wanted) if wanted else {}
                return ends
        except (KafkaError, OSError) as error:
            log.debug("the ends of the topics are unknown", error=type(error).__name__)
            await self.close()
            return None

    async def close(self) -> None:
        """Lets go of the connection."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            with contextlib.suppress(KafkaError, OSError):
                async with asyncio.timeout(_PATIENCE_SECONDS):
                    await consumer.stop()

    async def _connected(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            self._consumer = AIOKafkaConsumer(
                client_id="comms-watch",
                enable_auto_commit=False,
                request_timeout_ms=int(_PATIENCE_SECONDS * 1000),
                **client_options(self._settings),
            )
            await self._consumer.start()
        return self._consumer


class LaneWatch:
    """Looks at lanes, and tells their `Progress` what it saw."""

    def __init__(self, apps: Sequence[faust.App], ends: Ends) -> None:
        self._apps = apps
        self._ends = ends
        self._committed: dict[str, int] = {}

    async def look(self) -> None:
        """Looks at each lane once."""
        commits = {lane_name(app): _commits(app) for app in self._apps}
        ends = await self._ends.read(partition for own in commits.values() for partition in own)
        for app in self._apps:
            name = lane_name(app)
            progress, own = progress_of(name), commits[name]
            committed = sum(own.values())
            if self._committed.get(name) != committed:
                self._committed[name] = committed
                progress.beat()
            if ends is None:  # where Kafka is away nobody can read
                progress.lags = False
                continue
            behind = sum(max(0, ends[each] - offset) for each, offset in own.items())
            LAG.labels(name).set(behind)
            progress.lags = behind > 0 or not is_member(app)

    async def close(self) -> None:
        """Lets go of the broker."""
        await self._ends.close()


def lane_name(app: faust.App) -> str:
    """The lane that the app is."""
    return str(next(iter(app.agents.values())).name)


def is_member(app: faust.App) -> bool:
    """Whether the lane's consumer is in its group; with no partition it is in it too."""
    coordinator: Any = getattr(_client(app), "_coordinator", None)
    return coordinator is not None and getattr(coordinator, "generation", -1) > 0


def _commits(app: faust.App) -> dict[TopicPartition, int]:
    """What the lane has committed of the partitions that are its own now."""
    if _client(app) is None:
        return {}
    consumer = app.consumer
    offsets = {each: consumer._committed_offset.get(each) for each in consumer.assignment()}
    return {TopicPartition(*each): offset for each, offset in offsets.items() if offset is not None}


def _client(app: faust.App) -> Any:
    """aiokafka's consumer; None before the lane's thread has made it."""
    return getattr(getattr(app.consumer, "_thread", None), "_consumer", None)
