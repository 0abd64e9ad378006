"""Faust with less work for each record.

What it did beside reading took a tenth of a worker's time, most of it for features that no lane uses: codecs, joins,
processors, acks of its own, a producer's buffer. What is here does the rest of the same.

- `Raw` gives a record's bytes to the stream as they are.
- `Handed` is the stream. Faust's goes once around the loop (`await sleep(0)`) for each record; where the loop is busy,
  a turn takes a millisecond, so a lane could be fed no more than a thousand records a second however idle the rest of
  the machine. Ours goes around once for every few records.
- `Unwatched` keeps no books on records that nobody reads, and `Unused` doesn't look all settings up for each one to
  learn that nothing waits to be produced.
- `HandsOverAtOnce` is for the consumer. Faust's makes four tasks for each record, so that it stops waiting for room
  when it is told to stop, and cancels three of them. There nearly always is room; only where there is none does ours
  wait like Faust's.
- `Patience` is for the consumer of a busy lane: half a millisecond goes for each fetch, whatever it brings.

This reaches into Faust (pinned; `tests/unit/test_faust_pace.py` guards it).
"""

from __future__ import annotations

import asyncio
import inspect
import time
import types
from collections.abc import AsyncIterator, Callable, Coroutine, Generator
from itertools import count
from typing import Any

import faust
from faust.transport.drivers.aiokafka import Producer
from faust.transport.producer import ProducerBuffer
from mode import Service
from mode.services import WaitResults

#: Records handed over in one turn: about a millisecond's work.
RECORDS_A_TURN = 16
#: A lane is busy when more come in a second.
BUSY_RATE = 500
#: A fetch that brings so many says that more are waiting already.
FULL_RECORDS = 256
#: So often a lane is looked at.
LOOK_SECONDS = 0.25


class Raw(faust.Schema):  # type: ignore[misc]
    """Keys and values are bytes; headers are the message's."""

    def compile(self, app: Any, **_: Any) -> Any:
        """What makes an event of a message."""

        async def decode(message: Any, **_: Any) -> Any:
            return faust.Event(app, message.key, message.value, None, message)

        return decode


class Handed(faust.Stream):  # type: ignore[misc]
    """The stream of an agent that acknowledges by itself."""

    async def events(self) -> AsyncIterator[Any]:
        """The events of this generation of the consumer group, in order."""
        app, queue = self.app, self.channel.queue
        is_flowing = app.flow_control.is_active
        has_started = await self.maybe_start()
        try:
            for number in count():
                if number % RECORDS_A_TURN == 0:
                    await asyncio.sleep(0)
                if self.should_stop:
                    return
                event = await queue.get() if queue.empty() else queue.get_nowait()
                # Others were fetched for partitions that may be somebody else's by now.
                if is_flowing() and event.message.generation_id == app.consumer_generation_id:
                    yield event
        except StopAsyncIteration:
            return  # so Faust ends a stream that waits; a generator may not let it through
        finally:
            if has_started:
                await self.stop()
                self.service_reset()


class Unwatched(faust.Monitor):  # type: ignore[misc]
    """A monitor of nothing: ours are in `streams.metrics`."""

    def on_message_in(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def on_message_out(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def track_tp_end_offset(self, *_: Any) -> None:
        """Nothing."""

    def _sample(self, *_: Any) -> tuple[int, int]:
        """Nothing to sum up, each second in each lane."""
        return 0, 0


class Unused(Producer):  # type: ignore[misc]
    """The producer of an app that writes by another one."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.buffer = _Buffer(loop=self.loop, beacon=self.beacon)
        self.buffer.app = self.app


class _Buffer(ProducerBuffer):  # type: ignore[misc]
    @property
    def size(self) -> int:
        """Records that wait to be written; a lane reads on while they are few."""
        return int(self.pending.qsize())


class Patience:
    """How long to wait before the next fetch: at 1,300 records a second in bursts, without patience two thirds of what
    reading them cost was the number of fetches.

    No lane waits where records are few, or where there is a backlog.
    """

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._since = clock()
        self._records = 0
        self._is_busy = False

    def after(self, records: int) -> float:
        """Seconds to wait after a fetch that brought so many."""
        self._records += records
        elapsed = self._clock() - self._since
        if elapsed >= LOOK_SECONDS:
            self._is_busy = self._records > BUSY_RATE * elapsed
            self._since += elapsed
            self._records = 0
        return self._seconds if self._is_busy and records < FULL_RECORDS else 0.0


class HandsOverAtOnce(Service):  # type: ignore[misc]
    """For a consumer: what needs no waiting is done without tasks, and once around the loop for every few records."""

    _handed_over = 0

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:
        """As Faust's own, of which this consumer asks `wait_first(hand over the record, be told to stop)`."""
        work, *others = coros
        if not inspect.iscoroutine(work):
            return await super().wait_first(*coros, timeout=timeout)
        self._handed_over += 1
        if self._handed_over % RECORDS_A_TURN == 0:  # or what was fetched at once, some hundred, would be one turn
            await asyncio.sleep(0)
        try:
            waits_for = work.send(None)
        except StopIteration as done:
            for each in others:
                each.close()
            return WaitResults([work], [done.value], self.should_stop)
        return await super().wait_first(_rest(work, waits_for), *others, timeout=timeout)


async def _rest(work: Coroutine[Any, Any, Any], waits_for: Any) -> Any:
    return await _going_on(work, waits_for)


@types.coroutine
def _going_on(work: Coroutine[Any, Any, Any], waits_for: Any) -> Generator[Any, Any, Any]:
    """The rest of a coroutine that has begun, and waits."""
    try:
        while True:
            try:
                answer = yield waits_for
            except BaseException as error:
                waits_for = work.throw(error)
            else:
                waits_for = work.send(answer)
    except StopIteration as done:
        return done.value
