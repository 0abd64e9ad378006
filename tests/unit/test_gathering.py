"""Who comes alone waits for nobody; who comes in company is served together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from streams.gathering import Gathering


class Work:
    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    async def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        await asyncio.sleep(0)
        return [item * 2 for item in items]


async def test_alone_nobody_waits() -> None:
    work = Work()
    gathering = Gathering(work, pause_seconds=60)
    started = time.monotonic()
    assert [await gathering.add(number) for number in range(5)] == [0, 2, 4, 6, 8]
    assert time.monotonic() - started < 5
    assert work.batches == [[0], [1], [2], [3], [4]]


async def test_after_a_crowd_the_next_ones_come_together() -> None:
    work = Work()
    gathering = Gathering(work, pause_seconds=0.05)
    crowd = [asyncio.create_task(gathering.add(number)) for number in range(4)]
    assert await asyncio.gather(*crowd) == [0, 2, 4, 6]
    later = []
    for number in range(3):
        later.append(asyncio.create_task(gathering.add(number)))
        await asyncio.sleep(0.001)
    assert await asyncio.gather(*later) == [0, 2, 4]
    assert work.batches == [[0, 1, 2, 3], [0, 1, 2]]
