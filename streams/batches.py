"""A lane that works in whole batches, as request and contact lanes do: all of a batch, in order, or none of it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from streams.conditions import Conditions
from streams.lanes import LaneApp
from streams.metrics import BATCH_SECONDS, QUEUE_AGE, RECORDS
from streams.records import Incoming, from_message
from streams.watchdog import progress_of

#: A batch of no more records than this says that the lane is quiet.
_TINY_BATCH = 16
#: How long a rebalance, or the end of the process, waits for the batches in hand.
_QUIESCE_SECONDS = 13.0
_LOOK_SECONDS = 0.02

#: The second part of a batch's work.
Finish = Callable[[], Awaitable[None]]
#: Does the first part of a batch's work and returns the second, which ends when all that the batch caused is durable.
#: The second part of a batch runs beside the first part of the next one, and before that one's second. Both raise only
#: when the process had better end.
Begin = Callable[[Sequence[Incoming]], Awaitable[Finish]]


class Backlog:
    """Records between a lane's stream and its work, in order: what comes while a batch is worked on is the next one."""

    def __init__(self, *, room: int) -> None:
        self._room = room
        self._events: deque[Any] = deque()
        self._conditions = Conditions()
        self._is_busy = False

    def put(self, event: Any) -> bool:
        """Adds a record; whether there is room for more."""
        self._events.append(event)
        self._conditions.notify()
        return len(self._events) < self._room

    async def room(self) -> None:
        """Waits until there is room."""
        await self._conditions.until(lambda: len(self._events) < self._room)

    async def next_batch(self, most: int, *, linger_seconds: float, patience_seconds: float) -> list[Any]:
        """The oldest records, `most` at the most; waits for the first, and a moment (`linger_seconds`) for more.

        Where the last batch was no tiny one, more are on their way: some milliseconds more make a batch of them that
        costs less than two.
        """
        await self._conditions.until(lambda: bool(self._events))
        wait_seconds = patience_seconds if self._is_busy else linger_seconds
        await self._conditions.until(lambda: len(self._events) >= most, seconds=wait_seconds)
        taken = [self._events.popleft() for _ in range(min(most, len(self._events)))]
        self._is_busy = len(taken) > _TINY_BATCH
        self._conditions.notify()
        return taken


class Batches:
    """The work of a lane in batches of at most `batch_records`.

    `linger_seconds` is how long a quiet lane waits for more than the first record, `patience_seconds` how long a busy
    one waits for a batch to fill up.
    """

    def __init__(
        self,
        *,
        lane: str,
        topic: str,
        begin: Begin,
        batch_records: int,
        linger_seconds: float = 0.0,
        patience_seconds: float = 0.0,
    ) -> None:
        self._lane = lane
        self._topic = topic
        self._begin_batch = begin
        self._batch_records = batch_records
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._backlog = Backlog(room=2 * batch_records)
        self._age = QUEUE_AGE.labels(lane)
        self._in_hand = 0
        self._progress = progress_of(lane)
        self._progress.watch(lambda: self._in_hand > 0)

    def start(self, app: LaneApp) -> None:
        """Begins to work."""
        app.add_future(self._work(app))

    def feed(self, event: Any) -> bool:
        """Takes a record in; whether there is room for more."""
        self._in_hand += 1
        return self._backlog.put(event)

    async def room(self) -> None:
        """Waits until there is."""
        await self._backlog.room()

    async def quiesce(self, app: LaneApp) -> None:
        """Finishes all that was taken in: two batches at most.

        What a server that is away holds up longer is let go of: the others of the group wait for this member. It is
        read again, and acknowledged only when it is done.
        """
        deadline = time.monotonic() + _QUIESCE_SECONDS
        while self._in_hand and not app.crashed and time.monotonic() < deadline:  # noqa: ASYNC110  one is Faust's
            await asyncio.sleep(_LOOK_SECONDS)
        await app.consumer.commit()

    async def _work(self, app: LaneApp) -> None:
        finishing: asyncio.Future[None] | None = None
        while True:
            events = await self._backlog.next_batch(
                self._batch_records, linger_seconds=self._linger_seconds, patience_seconds=self._patience_seconds
            )
            finish = await self._begin([from_message(self._topic, event.message) for event in events])
            if finishing is not None:
                await finishing
                if app.crashed:  # what the one before held must be read again, and an ack behind it would skip it
                    return
            finishing = app.add_future(self._finish(finish, events))

    async def _begin(self, records: Sequence[Incoming]) -> Finish:
        self._progress.beat()
        now_ms = time.time() * 1000
        for record in records:
            self._age.observe(max(0.0, now_ms - record.timestamp_ms) / 1000)
        started = time.perf_counter()
        finish = await self._begin_batch(records)
        BATCH_SECONDS.labels(self._lane, "begin").observe(time.perf_counter() - started)
        return finish

    async def _finish(self, finish: Finish, events: Sequence[Any]) -> None:
        started = time.perf_counter()
        await finish()
        for event in events:
            event.ack()
        BATCH_SECONDS.labels(self._lane, "finish").observe(time.perf_counter() - started)
        RECORDS.labels(self._lane).inc(len(events))
        self._in_hand -= len(events)
        self._progress.beat()
