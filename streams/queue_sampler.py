"""Samples all queues every few seconds, by one process of the cluster at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import structlog
from mode import Service
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.repositories import queue_metrics as table
from models.repositories import waiting_events
from models.repositories.queue_metrics import QueueSample, Rows, Turn
from models.repositories.waiting_events import UnmatchedRows
from streams.errors import is_passing, sqlstate
from streams.metrics import QUEUE_LAG, QUEUE_MEMBERS, QUEUE_OLDEST
from streams.queue_reader import Reading
from streams.queues import OUTBOX, QUEUES, SCHEDULES, UNMATCHED_EVENTS

log = structlog.get_logger()

EVERY = timedelta(seconds=5)
#: A difference over a longer time is no rate of now.
_LONGEST_RATE = timedelta(minutes=5)
_GAUGES = (QUEUE_LAG, QUEUE_OLDEST, QUEUE_MEMBERS)


class ReadsQueues(Protocol):
    """The part of the reader that the sampler needs."""

    def read(self, *, within_seconds: float = 5.0) -> Awaitable[Mapping[str, Reading]]:
        """All queues that are topics, by name."""

    def close(self) -> Awaitable[None]:
        """Lets go of the connections."""


class QueueSampler(Service):  # type: ignore[misc]
    """Takes turns with the samplers of other processes; whoever has the turn also shows the gauges."""

    def __init__(self, *, engine: AsyncEngine, reader: ReadsQueues, every: timedelta = EVERY, **service: Any) -> None:
        super().__init__(**service)
        self._engine = engine
        self._reader = reader
        self._every = every

    async def on_stop(self) -> None:
        """Lets go of the broker."""
        await self._reader.close()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self.sample()
            except Exception as error:  # Nothing that goes wrong here is worth ending the lanes of this process.
                _forget_gauges()
                reason = "a server is away" if is_passing(error) else sqlstate(error) or "odd"
                log.warning("no sample of the queues", error=type(error).__name__, reason=reason)
            await self.sleep(self._every.total_seconds())

    async def sample(self) -> Sequence[QueueSample]:
        """Takes and stores a sample if it is this process's turn; empty if not."""
        async with self._engine.begin() as connection:
            turn = await table.take_turn(connection, every=self._every)
            if turn is None:
                samples: list[QueueSample] = []
            else:
                samples = await measure(connection, self._reader, turn)
                await table.add(connection, samples)
                if any(sample.is_minutely for sample in samples):
                    await table.thin_out(connection, now=turn.now)
        _show(samples)
        return samples


async def measure(connection: AsyncConnection, reader: ReadsQueues, turn: Turn) -> list[QueueSample]:
    """All queues as they are now, with the rates since the sample before."""
    readings = {
        **await reader.read(),
        OUTBOX: _reading(await table.outbox_rows(connection)),
        SCHEDULES: _reading(await table.schedule_rows(connection)),
        UNMATCHED_EVENTS: _unmatched(await waiting_events.unmatched(connection)),
    }
    before = {sample.lane: sample for sample in turn.before}
    return [_sample(name, readings[name], before.get(name), turn.now) for name in QUEUES if name in readings]


def _reading(rows: Rows) -> Reading:
    return Reading(lag=rows.waiting, in_total=rows.came, out_total=rows.went, oldest_at=rows.oldest_at, members=None)


def _unmatched(rows: UnmatchedRows) -> Reading:
    return Reading(lag=rows.waiting, in_total=None, out_total=None, oldest_at=rows.oldest_at, members=None)


def _sample(lane: str, reading: Reading, before: QueueSample | None, now: datetime) -> QueueSample:
    return QueueSample(
        lane=lane,
        sampled_at=now,
        lag=reading.lag,
        in_total=reading.in_total,
        out_total=reading.out_total,
        in_per_second=None if before is None else _rate(before, now, before.in_total, reading.in_total),
        out_per_second=None if before is None else _rate(before, now, before.out_total, reading.out_total),
        oldest_age_seconds=_age(reading, now),
        members=reading.members,
        is_minutely=before is None or _minute(before.sampled_at) != _minute(now),
    )


def _rate(before: QueueSample, now: datetime, past_total: int | None, total: int | None) -> float | None:
    """A second; None where there is nothing to compare with, or the count started anew."""
    elapsed = now - before.sampled_at
    if total is None or past_total is None or total < past_total or not timedelta() < elapsed <= _LONGEST_RATE:
        return None
    return (total - past_total) / elapsed.total_seconds()


def _age(reading: Reading, now: datetime) -> float | None:
    """How long the head has waited; a schedule that is not due yet, or a clock that runs ahead, is no age at all."""
    if reading.lag == 0 or reading.oldest_at is None:
        return None
    return max(0.0, (now - reading.oldest_at).total_seconds())


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)


def _show(samples: Sequence[QueueSample]) -> None:
    """On the metrics page of the process whose turn it is, and of no other: sums over processes stay right."""
    _forget_gauges()
    for sample in samples:
        QUEUE_LAG.labels(sample.lane).set(sample.lag)
        QUEUE_OLDEST.labels(sample.lane).set(sample.oldest_age_seconds or 0.0)
        if sample.members is not None:
            QUEUE_MEMBERS.labels(sample.lane).set(sample.members)


def _forget_gauges() -> None:
    for gauge in _GAUGES:
        gauge.clear()
