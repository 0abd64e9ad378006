"""The slots of a provider: a bound that urgent calls pass first."""

from __future__ import annotations

import asyncio
import random

import pytest

from models.enums import Priority
from streams.channels.slots import Slots


class Calls:
    """Calls that hold a slot until they are let go."""

    def __init__(self, most: int) -> None:
        self.slots = Slots(most)
        self.running: list[str] = []
        self.begun: list[str] = []
        self.most_at_once = 0
        self._go: dict[str, asyncio.Event] = {}

    def start(self, name: str, priority: Priority, *, within_seconds: float = 60) -> asyncio.Task[None]:
        self._go[name] = asyncio.Event()
        return asyncio.create_task(self._call(name, priority, within_seconds))

    async def _call(self, name: str, priority: Priority, within_seconds: float) -> None:
        async with self.slots.one(priority, within_seconds=within_seconds):
            self.begun.append(name)
            self.running.append(name)
            self.most_at_once = max(self.most_at_once, len(self.running))
            try:
                await self._go[name].wait()
            finally:
                self.running.remove(name)

    def end(self, name: str) -> None:
        self._go[name].set()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_who_waits_for_people_goes_first_and_then_whoever_came_first() -> None:
    calls = Calls(1)
    tasks = [calls.start("running", Priority.LOW)]
    await turns()
    for name, priority in [
        ("low", Priority.LOW),
        ("normal-1", Priority.NORMAL),
        ("high", Priority.HIGH),
        ("normal-2", Priority.NORMAL),
    ]:
        tasks.append(calls.start(name, priority))
    for _ in tasks:
        await turns()
        calls.end(calls.running[0])
    await asyncio.gather(*tasks)
    assert calls.begun == ["running", "high", "normal-1", "normal-2", "low"]


async def test_who_waits_too_long_leaves_and_takes_no_slot_along() -> None:
    calls = Calls(1)
    first = calls.start("first", Priority.HIGH)
    await turns()
    with pytest.raises(TimeoutError):
        await calls.start("late", Priority.HIGH, within_seconds=0.01)
    calls.end("first")
    await first
    third = calls.start("third", Priority.LOW)
    await turns()
    assert calls.running == ["third"]
    calls.end("third")
    await third


async def test_a_free_slot_is_taken_at_once_even_without_time() -> None:
    async with Slots(1).one(Priority.LOW, within_seconds=-1):
        pass


async def test_no_cancellation_loses_a_slot_or_adds_one() -> None:
    chance = random.Random(7)
    calls = Calls(3)
    tasks: dict[str, asyncio.Task[None]] = {}
    for number in range(500):
        name = str(number)
        tasks[name] = calls.start(name, chance.choice(list(Priority)))
        if chance.random() < 0.5:
            chance.choice(list(tasks.values())).cancel()
        if calls.running and chance.random() < 0.7:
            calls.end(chance.choice(calls.running))  # in the same step as a cancellation, now and then
        if chance.random() < 0.5:
            await asyncio.sleep(0)
    while not all(task.done() for task in tasks.values()):
        for name in list(calls.running):
            calls.end(name)
        await asyncio.sleep(0)
    assert calls.most_at_once == 3
    last = [calls.start(f"last-{number}", Priority.LOW) for number in range(5)]
    await turns()
    assert len(calls.running) == 3
    for number in range(5):
        calls.end(f"last-{number}")
    await asyncio.gather(*last)
