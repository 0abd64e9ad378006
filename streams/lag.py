"""How far each lane is behind the end of its topic, as its consumer sees it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import faust
from mode import Service

from streams.metrics import LAG

_SAMPLE_SECONDS = 5.0


async def watch_lag(services: Sequence[Service]) -> None:
    """Samples the lag of all lanes, until cancelled."""
    while True:
        for service in services:
            if isinstance(service, faust.App):
                LAG.labels(next(iter(service.agents.values())).name).set(lag(service))
        await asyncio.sleep(_SAMPLE_SECONDS)


def lag(app: faust.App) -> int:
    """Records between what the lane has committed and the end of its topic, over its own partitions."""
    consumer = app.consumer
    behind = 0
    for partition in consumer.assignment():
        end = consumer.highwater(partition)
        committed = consumer._committed_offset.get(partition)
        if end is not None and committed is not None:
            behind += max(0, end - committed)
    return behind
