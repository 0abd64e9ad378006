"""What comes in one turn is done together; nobody waits for company or for another batch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from streams.together import Together


class Work:
    """Ends when it is told to."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self, items: Sequence[int]) -> None:
        self.batches.append(list(items))
        await self.go_on.wait()
        if self.error is not None:
            raise self.error


async def test_callers_of_one_turn_are_one_batch_and_a_later_one_does_not_wait_for_it() -> None:
    work = Work()
    together = Together(work)
    crowd = [asyncio.create_task(together.add(number)) for number in range(3)]
    while not work.batches:
        await asyncio.sleep(0)
    late = asyncio.create_task(together.add(3))
    while len(work.batches) < 2:
        await asyncio.sleep(0)
    assert work.batches == [[0, 1, 2], [3]]
    assert not any(task.done() for task in crowd)
    work.go_on.set()
    await asyncio.gather(*crowd, late)


async def test_all_of_a_batch_are_told_what_went_wrong() -> None:
    work = Work()
    work.error = OSError("away")
    work.go_on.set()
    together = Together(work)
    told = await asyncio.gather(*(together.add(number) for number in range(3)), return_exceptions=True)
    assert told == [work.error] * 3
    work.error = None
    await together.add(3)


async def test_who_goes_away_takes_nobody_along() -> None:
    work = Work()
    together = Together(work)
    going = asyncio.create_task(together.add(0))
    staying = asyncio.create_task(together.add(1))
    while not work.batches:
        await asyncio.sleep(0)
    going.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going
    work.go_on.set()
    await staying
    assert work.batches == [[0, 1]]
