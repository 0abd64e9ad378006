"""Handing a record over without tasks does what Faust does with four."""

from __future__ import annotations

import asyncio

import pytest
from mode import Service

from streams.faust_pace import HandsOverAtOnce


class Consumer(HandsOverAtOnce, Service):
    """As a lane's, without Kafka."""


@pytest.fixture
async def consumer() -> Consumer:
    return Consumer()


async def answer(value: str) -> str:
    return value


async def test_what_need_not_wait_makes_no_task(consumer: Consumer) -> None:
    before = len(asyncio.all_tasks())
    results = await consumer.wait_first(answer("handed over"), asyncio.Event().wait())
    assert (results.results, results.stopped, len(asyncio.all_tasks())) == (["handed over"], False, before)


async def test_what_waits_is_waited_for(consumer: Consumer) -> None:
    room = asyncio.Event()

    async def hand_over() -> str:
        await room.wait()
        await asyncio.sleep(0)
        async with asyncio.timeout(5):
            await room.wait()
        return "handed over"

    waiting = asyncio.create_task(consumer.wait_first(hand_over(), asyncio.Event().wait()))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    room.set()
    results = await waiting
    assert (results.results, results.stopped) == (["handed over"], False)


async def test_it_waits_no_longer_than_the_flow(consumer: Consumer) -> None:
    suspended, given_up = asyncio.Event(), asyncio.Event()

    async def hand_over() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            given_up.set()
            raise

    waiting = asyncio.create_task(consumer.wait_first(hand_over(), suspended.wait()))
    await asyncio.sleep(0)
    suspended.set()
    assert len((await waiting).results) == 1
    async with asyncio.timeout(5):
        await given_up.wait()


@pytest.mark.parametrize("waits", [False, True])
async def test_errors_are_raised(consumer: Consumer, waits: bool) -> None:
    async def hand_over() -> None:
        if waits:
            await asyncio.sleep(0)
        raise LookupError("odd")

    with pytest.raises(LookupError, match="odd"):
        await consumer.wait_first(hand_over(), asyncio.Event().wait())


async def test_one_that_stopped_says_so(consumer: Consumer) -> None:
    consumer._stopped.set()
    assert (await consumer.wait_first(answer("late"), asyncio.Event().wait())).stopped
