"""A lane acknowledges in order, and nothing behind a batch that failed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

import pytest

from streams.batches import Batches, Finish
from streams.lanes import Lane, build_app
from streams.records import Incoming
from tests.fixtures.records import raw_client
from tests.fixtures.service import Service

TOPIC = "notification.requests.low"


def a_lane(
    name: str, finish_of: dict[int, asyncio.Event | Exception], finished: list[int], began: list[int] | None = None
) -> Lane:
    """Batches of one record; the second half of the batch of an offset waits for its event, or raises."""

    async def begin(records: Sequence[Incoming]) -> Finish:
        offset = records[0].offset
        if began is not None:
            began.append(offset)

        async def finish() -> None:
            what = finish_of.get(offset)
            if isinstance(what, Exception):
                raise what
            if what is not None:
                await what.wait()
            finished.append(offset)

        return finish

    work = partial(Batches, lane=name, topic=TOPIC, begin=begin, batch_records=1)
    return Lane(name=name, topic=TOPIC, work=work, ahead_records=1)


@pytest.fixture(scope="module", autouse=True)
async def ten_records(service: Service) -> None:
    async with raw_client(service.settings) as raw:
        for number in range(10):
            await raw.put(TOPIC, b"%d" % number)


async def test_nothing_is_acknowledged_behind_a_batch_that_failed(service: Service) -> None:
    finished: list[int] = []
    app = build_app(a_lane("failing", {3: RuntimeError("lost its head")}, finished), service.settings)
    await app.start()
    async with asyncio.timeout(30):
        await app.wait_until_stopped()
    assert app.crashed
    await _abandon(app)
    assert finished == [0, 1, 2]

    again: list[int] = []
    app = build_app(a_lane("failing", {}, again), service.settings)
    await app.start()
    async with asyncio.timeout(30):
        while 9 not in again:
            await asyncio.sleep(0.05)
    await app.stop()
    assert again == list(range(again[0], 10))
    assert again[0] <= 3


async def test_the_second_halves_keep_their_order(service: Service) -> None:
    finished: list[int] = []
    began: list[int] = []
    gate = asyncio.Event()
    app = build_app(a_lane("ordered", {0: gate}, finished, began), service.settings)
    await app.start()
    async with asyncio.timeout(30):
        while began != [0, 1]:  # the next one begins beside it, and no third
            await asyncio.sleep(0.01)
        assert finished == []
        gate.set()
        while 9 not in finished:
            await asyncio.sleep(0.05)
    await app.stop()
    assert finished == list(range(10))


async def _abandon(app: object) -> None:
    """As the process would end: its members leave the group only when their session ends."""
    stop = asyncio.create_task(app.stop())  # type: ignore[attr-defined]
    await asyncio.wait([stop], timeout=3)
