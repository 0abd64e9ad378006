"""Looks at the lanes from outside, for the watchdog: a lane that has lag and reads nothing can't tell so itself.

A lane moves when its commits do. One that is behind the end of its topic and does not move, or that is in no consumer
group although Kafka answers, ought to be getting on (docs/decisions/0002-lanes.md: a consumer that was stalled too long
leaves its group and never comes back).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import faust
import structlog
from mode import Service

from models.errors import Unavailable
from models.settings import Settings
from streams.metrics import LAG
from streams.readiness import topics
from streams.watchdog import holds, progress_of

log = structlog.get_logger()

_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 5.0
_TELL_SECONDS = 60.0


async def watch_lanes(services: Sequence[Service], settings: Settings) -> None:
    """Looks at all lanes every few seconds, until cancelled; says once a minute which of them hold, and why."""
    apps = [service for service in services if isinstance(service, faust.App)]
    moved: dict[str, int] = {}
    told_at = 0.0
    loop = asyncio.get_running_loop()
    while True:
        await look(apps, settings, moved)
        if loop.time() - told_at > _TELL_SECONDS:
            told_at = loop.time()
            if held := holds():
                log.warning("lanes hold", lanes=held)
        await asyncio.sleep(_LOOK_SECONDS)


async def look(apps: Sequence[faust.App], settings: Settings, moved: dict[str, int]) -> None:
    """Looks at each lane once. `moved` keeps between two looks how far each had come."""
    standing = []
    for app in apps:
        name = lane_name(app)
        progress = progress_of(name)
        committed, behind = await _place(app)
        if behind is not None:
            LAG.labels(name).set(behind)
        if moved.get(name) != committed:
            moved[name] = committed
            progress.beat()
        if behind == 0 and is_member(app):
            progress.lags = False
        else:
            standing.append(app)
    if standing:
        there = await _topics(settings)
        for app in standing:
            # Where Kafka is away, or has no such topic yet, nobody can read.
            progress_of(lane_name(app)).lags = _topic(app) in there


def lane_name(app: faust.App) -> str:
    """The lane that the app is."""
    return str(next(iter(app.agents.values())).name)


def is_member(app: faust.App) -> bool:
    """Whether the lane's consumer is in its group; with no partition it is in it too."""
    coordinator: Any = getattr(_client(app), "_coordinator", None)
    return coordinator is not None and getattr(coordinator, "generation", -1) > 0


async def _place(app: faust.App) -> tuple[int, int | None]:
    """The sum of the lane's commits, and how far they are behind; None where Kafka doesn't tell."""
    consumer = app.consumer
    partitions = list(consumer.assignment()) if _client(app) is not None else []
    known = {each: offset for each in partitions if (offset := consumer._committed_offset.get(each)) is not None}
    committed = sum(known.values())
    if not partitions:
        return committed, 0
    try:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            ends = await consumer.highwaters(*partitions)
    except Exception as error:
        log.debug("the ends of a topic are unknown", lane=lane_name(app), error=type(error).__name__)
        return committed, None
    return committed, sum(max(0, ends[each] - offset) for each, offset in known.items() if ends.get(each) is not None)


def _client(app: faust.App) -> Any:
    """aiokafka's consumer; None before the lane's thread has made it."""
    return getattr(getattr(app.consumer, "_thread", None), "_consumer", None)


def _topic(app: faust.App) -> str:
    return str(next(iter(app.agents.values())).channel.get_topic_name())


async def _topics(settings: Settings) -> set[str]:
    """The cluster's topics, as a client of our own sees them; none while it does not answer."""
    try:
        return await topics(settings)
    except Unavailable:
        return set()
