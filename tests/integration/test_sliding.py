"""The sliding window on a real Kafka: what it reads, what it commits, and what a rebalance leaves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from faust.transport.drivers.aiokafka import Consumer

from models.settings import Settings
from streams.lanes import Lane, LaneApp, build_app, consumer_group
from streams.sliding import Sliding
from streams.window import Window
from tests.fixtures.records import raw_client
from tests.fixtures.service import Service

TOPIC = "notification.send.email.low"


class Worker:
    """Takes what may start, and is done with it when told, or at once."""

    def __init__(self, done: Counter[bytes], *, holds: Callable[[bytes], bool] = lambda value: False) -> None:
        self.window = Window()
        self._done = done
        self._holds = holds
        self.held: list[Any] = []

    def start(
        self, run: Callable[[Coroutine[Any, Any, None]], object], acknowledge: Callable[[Sequence[Any]], None]
    ) -> None:
        self.acknowledge = acknowledge
        run(self._work())

    async def _work(self) -> None:
        while True:
            entries = self.window.take(50)
            for entry in entries:
                if self._holds(entry.message.value):
                    self.held.append(entry)
                    continue
                self._done[entry.message.value] += 1
                self.window.let_next(entry)
                self.acknowledge(self.window.finish([entry]))
            await asyncio.sleep(0 if entries else 0.005)

    async def quiesce(self, *, is_ending: bool) -> dict[int, int]:
        prefixes = self.window.prefixes()
        if not is_ending:
            self.window.clear()
        return prefixes


def an_app(service: Service, name: str, worker: Worker) -> LaneApp:
    work = partial(Sliding, worker, topic=service.settings.kafka_topic_prefix + TOPIC)
    lane = Lane(name=name, topic=TOPIC, work=work, ahead_records=128)
    return build_app(lane, service.settings)


async def until(condition: Callable[[], bool], within_seconds: float = 30.0) -> None:
    async with asyncio.timeout(within_seconds):
        while not condition():
            await asyncio.sleep(0.01)


async def committed(settings: Settings, name: str) -> dict[int, int]:
    admin = AIOKafkaAdminClient(bootstrap_servers=settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        offsets = await admin.list_consumer_group_offsets(consumer_group(settings, name))
        return {partition.partition: meta.offset for partition, meta in offsets.items() if meta.offset >= 0}
    finally:
        await admin.close()


@pytest.fixture(scope="module")
async def filled(service: Service) -> set[bytes]:
    """Many records of one user in one partition, and a few of others in the other."""
    async with raw_client(service.settings) as raw:
        hot = [b"hot-%d" % number for number in range(3_000)]
        cold = [b"cold-%d" % number for number in range(300)]
        for values, key, partition in ((hot, b"hot", 0), (cold, None, 1)):
            written = [await raw.send(TOPIC, value, key=key, partition=partition) for value in values]
            await asyncio.gather(*written)
    return {*hot, *cold}


async def test_a_long_chain_does_not_keep_other_partitions_out(service: Service, filled: set[bytes]) -> None:
    done: Counter[bytes] = Counter()
    worker = Worker(done, holds=lambda value: value == b"hot-0")
    app = an_app(service, "hot", worker)
    await app.start()
    await until(lambda: sum(value.startswith(b"cold") for value in done) == 300)
    assert len(worker.window) < 1_700, "the full partition is not read on"
    [entry] = worker.held
    worker.window.let_next(entry)
    worker.acknowledge(worker.window.finish([entry]))
    await until(lambda: len(done) == len(filled) - 1)
    await app.stop()
    assert await committed(service.settings, "hot") == {0: 3_000, 1: 300}
    assert max(done.values()) == 1


async def test_the_prefix_is_committed_at_the_end_and_no_more(service: Service, filled: set[bytes]) -> None:
    done: Counter[bytes] = Counter()
    worker = Worker(done, holds=lambda value: value in (b"hot-100", b"cold-7"))
    app = an_app(service, "end", worker)
    await app.start()
    await until(lambda: len(worker.held) == 2 and sum(value.startswith(b"cold") for value in done) == 299)
    await app.stop()
    assert await committed(service.settings, "end") == {0: 100, 1: 7}


async def test_a_rebalance_commits_the_prefix_and_loses_nothing(service: Service, filled: set[bytes]) -> None:
    """A second member joins while the first holds one; then the first leaves."""
    done: Counter[bytes] = Counter()
    first = Worker(done, holds=lambda value: value == b"hot-50")
    app = an_app(service, "pair", first)
    await app.start()
    await until(lambda: bool(first.held) and done[b"cold-299"] == 1)
    second = Worker(done)
    joining = an_app(service, "pair", second)
    await joining.start()
    await until(lambda: set(done) == filled or len(first.held) == 2)
    if set(done) != filled:  # the held one stayed with the first member
        await app.stop()
        await until(lambda: set(done) == filled)
    await joining.stop()
    if not app.should_stop:
        await app.stop()
    assert {value for value, times in done.items() if times > 1 and value.startswith(b"cold")} == set()
    assert all(done[b"hot-%d" % number] == 1 for number in range(50)), "what was acknowledged was committed"
    assert await committed(service.settings, "pair") == {0: 3_000, 1: 300}


def test_faust_still_has_the_parts_that_lanes_reach_into(service: Service) -> None:
    app = an_app(service, "parts", Worker(Counter()))
    for name in ("_consumer_wait_empty", "_new_transport"):
        assert hasattr(super(LaneApp, app), name)
    consumer = app.transport.Consumer
    assert issubclass(consumer, Consumer)
    assert asyncio.iscoroutinefunction(Consumer.wait_first)
    for name in ("_wait_next_records", "_get_active_partitions", "_commit", "on_buffer_full", "on_buffer_drop"):
        assert hasattr(consumer, name)
