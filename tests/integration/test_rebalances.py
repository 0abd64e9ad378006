"""What a lane reads after a rebalance, where nothing was committed yet, and where rebalances meet."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiokafka.errors import IllegalStateError
from faust.types import TP

from streams.faust_reading import ReadsOn
from streams.lanes import LaneApp
from tests.fixtures.records import raw_client
from tests.fixtures.service import Service
from tests.integration.test_sliding import TOPIC, Worker, an_app, committed, until

RECORDS = 400


@pytest.fixture(scope="module")
async def filled(service: Service) -> None:
    """As many records in each of two partitions."""
    async with raw_client(service.settings) as raw:
        written = [await raw.send(TOPIC, b"%d" % number, partition=number % 2) for number in range(2 * RECORDS)]
        await asyncio.gather(*written)


class Holder(Worker):
    """Is done with nothing."""

    def __init__(self) -> None:
        super().__init__(Counter(), holds=lambda _: True)

    def offsets(self) -> dict[int, list[int]]:
        """By partition what it has."""
        return {
            number: [entry.message.offset for entry in partition.entries]
            for number, partition in self.window._partitions.items()
        }


@asynccontextmanager
async def running(service: Service, name: str, worker: Worker) -> AsyncIterator[LaneApp]:
    app = an_app(service, name, worker)
    await app.start()
    try:
        yield app
    finally:
        await app.stop()


def has_all(worker: Holder, *numbers: int) -> bool:
    return worker.offsets() == {number: list(range(RECORDS)) for number in numbers}


async def test_partitions_without_a_commit_are_read_from_their_beginning(service: Service, filled: None) -> None:
    """aiokafka's own `seek_to_committed` would leave them where the records are that nobody has got."""
    worker = Holder()
    async with running(service, "fresh", worker) as app:
        await until(lambda: has_all(worker, 0, 1))
        tp = TP(service.settings.kafka_topic_prefix + TOPIC, 0)
        assert await app.consumer.position(tp) == RECORDS
        assert (await app.consumer.seek_to_committed())[tp] is None
        assert await app.consumer.position(tp) == 0
    assert await committed(service.settings, "fresh") == {}


async def test_who_has_the_partitions_has_all_of_their_records(
    service: Service, filled: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member joins one that has committed nothing, and leaves again; seeking takes long, so a fetch is between."""
    seek = ReadsOn.perform_seek

    async def slowly(self: ReadsOn) -> Any:
        await asyncio.sleep(1.2)
        return await seek(self)

    monkeypatch.setattr(ReadsOn, "perform_seek", slowly)
    first, second = Holder(), Holder()
    async with running(service, "pair", first):
        await until(lambda: has_all(first, 0, 1))
        async with running(service, "pair", second):
            await until(lambda: len(first.offsets()) == 1 and len(second.offsets()) == 1)
            [ours], [theirs] = first.offsets(), second.offsets()
            await until(lambda: has_all(first, ours) and has_all(second, theirs))
        await until(lambda: has_all(first, 0, 1))


async def test_a_seek_that_ends_in_the_next_rebalance_lets_nothing_flow(service: Service, filled: None) -> None:
    worker = Holder()
    async with running(service, "meeting", worker) as app:
        await until(lambda: has_all(worker, 0, 1))
        consumer = app.consumer
        consumer.stop_flow()
        consumer.resume_flow()
        assert not consumer.flow_active, "nothing was sought since"
        await consumer.on_partitions_assigned(consumer.assignment(), app.consumer_generation_id)
        await until(lambda: consumer.flow_active)
        late = asyncio.ensure_future(consumer.seek_to_committed())
        await asyncio.sleep(0)
        consumer.stop_flow()
        with pytest.raises(IllegalStateError):
            await late
        consumer.resume_flow()
        assert not consumer.flow_active


async def test_what_was_fetched_before_the_seek_does_not_count(service: Service, filled: None) -> None:
    worker = Holder()
    async with running(service, "before", worker) as app:
        await until(lambda: has_all(worker, 0, 1))
        consumer = app.consumer
        consumer.pause_partitions(consumer.assignment())
        await consumer.seek_to_committed()
        fetched = await consumer._thread.getmany(set(consumer.assignment()), 5.0)
        assert fetched
        await consumer.seek_to_committed()
        fetching = asyncio.ensure_future(consumer._getmany(set(consumer.assignment()), 5.0))
        await asyncio.sleep(0)
        consumer.stops += 1
        assert await fetching == {}
