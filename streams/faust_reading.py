"""Where a lane reads on after a rebalance.

Faust seeks to the committed offsets, then lets records flow again. Twice that lost records:

- Where nothing was committed yet, aiokafka's `seek_to_committed` leaves a partition where it is: behind records that
  were fetched in the meantime and thrown away.
- Where partitions were taken again while it was still seeking, its end let records flow in the middle of the next
  rebalance, whose own end emptied the buffers of them after it had sought.

So every stop of the flow has a number here. A seek belongs to one of them, gives each partition a place, all in one
step, and does nothing once there was another stop; only such a seek lets records flow again, and only what was fetched
after it counts.

This reaches into Faust (pinned; `tests/integration/test_rebalances.py` guards it).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer
from faust.types import TP


class Fetched(dict[TP, Any]):
    """Records by partition, and the stop whose seek they were fetched after."""

    stop = -1


class SeekingThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """The thread of aiokafka's consumer."""

    consumer: ReadsOn
    #: The stop that partitions were last sought for.
    sought = -1

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Seeks to the committed offsets, and to the beginning where there is none; returns the committed offsets.

        Raises:
            IllegalStateError: when another rebalance has begun, as Faust expects it.
        """
        committed: Mapping[TP, int | None] = await self.call_thread(self._seek, self.consumer.stops)
        return committed

    async def _seek(self, stop: int) -> Mapping[TP, int | None]:
        consumer: AIOKafkaConsumer = self._ensure_consumer()
        partitions = consumer.assignment()
        offsets = await asyncio.gather(*(consumer.committed(partition) for partition in partitions))
        committed = dict(zip(partitions, offsets, strict=True))
        fresh = [partition for partition, offset in committed.items() if offset is None]
        beginnings = await consumer.beginning_offsets(fresh) if fresh else {}
        if stop != self.consumer.stops or partitions != consumer.assignment():
            raise IllegalStateError("another rebalance has begun")
        for partition, offset in committed.items():
            consumer.seek(partition, beginnings[partition] if offset is None else offset)
        self.sought = stop
        return committed

    async def _fetch_records(self, *arguments: Any, **options: Any) -> Fetched:
        fetched = Fetched(await super()._fetch_records(*arguments, **options))
        fetched.stop = self.sought
        return fetched


class ReadsOn(Consumer):  # type: ignore[misc]
    """A consumer that begins where it must after each rebalance, however many there are at a time."""

    _thread: SeekingThread
    #: How often the flow was stopped.
    stops = 0
    #: The stop that partitions were last assigned after.
    _assigned_after = -1

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.stop_flow()  # until the first seek

    def _new_consumer_thread(self) -> SeekingThread:
        return SeekingThread(self, loop=self.loop, beacon=self.beacon)

    def stop_flow(self) -> None:
        """Partitions go, or the end has come."""
        super().stop_flow()
        self.stops += 1

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Partitions have come, to be sought."""
        self._assigned_after = self.stops
        await super().on_partitions_assigned(assigned, generation_id)

    async def perform_seek(self) -> None:
        """Seeks, unless partitions are to come yet."""
        if self._assigned_after == self.stops:
            await super().perform_seek()

    def resume_flow(self) -> None:
        """Lets records flow, if no partitions have gone since they were sought."""
        if self._thread.sought == self.stops:
            super().resume_flow()

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Mapping[TP, Any]:
        fetched: Fetched = await super()._getmany(active_partitions, timeout)
        return fetched if fetched.stop == self.stops else {}
