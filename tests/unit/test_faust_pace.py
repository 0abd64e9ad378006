"""The names inside Faust and aiokafka that we reach for are still there, and do what they did."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any

import faust
import pytest
from aiokafka.consumer import fetcher
from faust.types.tuples import ConsumerMessage

from models.settings import Settings
from streams.faust_pace import FULL_RECORDS, RECORDS_A_TURN, Handed, HandsOverAtOnce, Patience, Raw, Unused, Unwatched
from streams.header_names import TolerantRecords
from streams.lanes import Lane, LaneApp, Work, build_app

HEADERS = [("content-type", b"application/json"), ("content-type", b"twice")]


class Nothing(Work):
    """Work that is never begun."""


def an_app() -> LaneApp:
    settings = Settings(database_url="postgresql://none/none", kafka_bootstrap_servers="none:1")
    app = build_app(Lane(name="a-lane", topic="a-topic", work=Nothing, ahead_records=64), settings)
    app.consumer_generation_id = 7
    app.flow_control.resume()
    return app


def a_message(offset: int, *, generation_id: int = 7) -> Any:
    return ConsumerMessage(
        "a-topic", 3, offset, 1.5, 0, HEADERS, b"key", b"%d" % offset, None, generation_id=generation_id
    )


def fill(stream: Any, events: Iterable[Any]) -> None:
    for event in events:
        stream.channel.queue.put_nowait(event)


async def an_event(app: LaneApp, message: Any) -> Any:
    return await app.agents["a-lane"].channel.decode(message, propagate=True)


@pytest.fixture
async def app() -> LaneApp:
    return an_app()


@pytest.fixture
async def stream(app: LaneApp) -> Any:
    return app.agents["a-lane"].stream()


def test_faust_is_the_version_that_was_measured() -> None:
    assert faust.__version__ == "0.15.3"


def test_aiokafka_reads_batches_by_ours() -> None:
    assert fetcher.MemoryRecords is TolerantRecords


async def test_a_lane_is_made_of_what_does_little(app: LaneApp, stream: Any) -> None:
    assert isinstance(stream, Handed)
    assert isinstance(app.agents["a-lane"].channel.schema, Raw)
    assert isinstance(app.producer, Unused)
    assert isinstance(app.monitor, Unwatched)


async def test_events_are_the_records_as_they_came(app: LaneApp) -> None:
    message = a_message(5)
    event = await an_event(app, message)
    assert (event.key, event.value, event.message) == (b"key", b"5", message)
    assert event.message.headers == HEADERS


async def test_a_record_without_value_is_an_event_too(app: LaneApp, stream: Any) -> None:
    message = a_message(5)
    message.key = message.value = None
    fill(stream, [await an_event(app, message)])
    async for event in stream.events():
        assert (event.key, event.value) == (None, None)
        break


async def test_events_come_in_order_and_those_of_another_generation_not_at_all(app: LaneApp, stream: Any) -> None:
    fill(stream, [await an_event(app, a_message(offset, generation_id=7 - offset % 2)) for offset in range(6)])
    offsets = []
    async for event in stream.events():
        offsets.append(event.message.offset)
        if len(offsets) == 3:
            break
    assert offsets == [0, 2, 4]


async def test_none_come_while_the_group_finds_itself_anew(app: LaneApp, stream: Any) -> None:
    fill(stream, [await an_event(app, a_message(1))])
    app.flow_control.suspend()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await anext(stream.events())
    assert stream.channel.queue.empty()


async def test_what_is_thrown_into_the_stream_is_raised(stream: Any) -> None:
    await stream.throw(LookupError("odd"))
    with pytest.raises(LookupError, match="odd"):
        await anext(stream.events())


async def test_a_stream_that_waits_ends_when_faust_says_so(stream: Any) -> None:
    async def hand_over() -> list[Any]:
        return [event async for event in stream.events()]

    waiting = asyncio.create_task(hand_over())
    await asyncio.sleep(0.01)
    await stream.throw(StopAsyncIteration())
    async with asyncio.timeout(5):
        assert await waiting == []


async def test_a_stream_that_is_stopped_ends(app: LaneApp, stream: Any) -> None:
    fill(stream, [await an_event(app, a_message(offset)) for offset in range(3)])
    events = stream.events()
    await anext(events)
    await stream.stop()
    assert [event async for event in events] == []


@contextmanager
def counted_turns() -> Iterator[count[int]]:
    """How often whoever else shares the loop had a turn: what comes next from the counter."""
    turns = count()

    async def others() -> None:
        while True:
            next(turns)
            await asyncio.sleep(0)

    beside = asyncio.create_task(others())
    yield turns
    beside.cancel()


async def test_the_loop_gets_a_turn_once_in_so_many_records(app: LaneApp, stream: Any) -> None:
    fill(stream, [await an_event(app, a_message(offset)) for offset in range(4 * RECORDS_A_TURN)])
    with counted_turns() as turns:
        async for event in stream.events():
            if event.message.offset == 4 * RECORDS_A_TURN - 1:
                break
    assert next(turns) == pytest.approx(4, abs=1)


async def test_a_producer_with_much_to_write_holds_a_lane_up(app: LaneApp) -> None:
    buffer = app.producer.buffer
    assert buffer.size == 0
    for _ in range(buffer.max_messages + 1):
        buffer.pending.put_nowait(None)
    assert buffer.size > buffer.max_messages


class Clock:
    """Stands still until it is moved."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def rests(patience_seconds: float, *fetches: tuple[float, int]) -> list[float]:
    """What a lane waits after fetches, each so many seconds after the one before, with so many records."""
    clock = Clock()
    patience = Patience(patience_seconds, clock=clock)
    waited = []
    for seconds, records in fetches:
        clock.seconds += seconds
        waited.append(patience.after(records))
    return waited


def test_a_busy_lane_waits_before_it_reads_on() -> None:
    assert rests(0.05, (0.3, 200), (0.002, 3), (0.05, 60)) == [0.05, 0.05, 0.05]


def test_a_quiet_lane_never_waits() -> None:
    at_200_a_second = [(0.005, 1)] * 400
    assert set(rests(0.05, *at_200_a_second)) == {0.0}


def test_a_burst_after_a_quiet_time_is_no_busy_lane() -> None:
    assert rests(0.05, (1.0, 128), (0.002, 20)) == [0.0, 0.0]


def test_a_lane_that_was_busy_reads_at_once_when_it_is_quiet() -> None:
    assert rests(0.05, (0.3, 200), (0.05, 50), (0.5, 1), (0.01, 1)) == [0.05, 0.05, 0.0, 0.0]


def test_a_backlog_is_read_without_waiting() -> None:
    assert rests(0.05, (0.3, FULL_RECORDS), (0.05, FULL_RECORDS), (0.05, 100)) == [0.0, 0.0, 0.05]


def test_a_lane_without_patience_never_waits() -> None:
    assert set(rests(0.0, (0.3, 1000), (0.0, 100), (0.3, 1000))) == {0.0}


async def test_a_lane_has_the_patience_that_it_is_given() -> None:
    settings = Settings(database_url="postgresql://none/none", kafka_bootstrap_servers="none:1")
    lane = Lane(name="a-lane", topic="a-topic", work=Nothing, ahead_records=64, patience_seconds=0.05)
    consumer = build_app(lane, settings).consumer
    assert consumer._patience._seconds == 0.05


async def test_many_records_at_once_let_others_have_their_turn() -> None:
    class Consumer(HandsOverAtOnce):
        """Only what is asked here."""

    async def hand_over() -> None:
        """Needs no waiting."""

    async def stopped() -> None:
        await asyncio.Event().wait()

    consumer = Consumer()
    with counted_turns() as turns:
        for _ in range(10 * RECORDS_A_TURN):
            await consumer.wait_first(hand_over(), stopped())
    assert next(turns) == pytest.approx(10, abs=1)
