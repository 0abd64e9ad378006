"""A lane with a sliding window: feeds it, pauses partitions that are full, and commits its prefix when they go."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from faust.types import TP

from streams.lanes import LaneApp
from streams.window import Window


class Slides(Protocol):
    """Who works on the window's records; `streams.agents.sending` does."""

    window: Window

    def start(
        self, run: Callable[[Coroutine[Any, Any, None]], object], acknowledge: Callable[[Sequence[Any]], None]
    ) -> None:
        """Begins its loops by `run(coroutine)`; tells by `acknowledge(messages)` what is done."""

    async def quiesce(self, *, is_ending: bool) -> dict[int, int]:
        """Starts nothing more and waits a while; returns by partition the offset to commit."""


class Sliding:
    """The work of a lane whose records are done in any order, and acknowledged by the contiguous prefix."""

    def __init__(self, worker: Slides, *, topic: str) -> None:
        """`topic` is the topic's full name."""
        self._worker = worker
        self._topic = topic
        self._consumer: Any = None
        self._paused: set[int] = set()

    def start(self, app: LaneApp) -> None:
        """Begins the worker's loops."""
        self._consumer = app.consumer
        self._worker.start(app.add_future, self._acknowledge)

    def feed(self, event: Any) -> bool:
        """Takes a record in; whether there is room for more."""
        window = self._worker.window
        window.add(event.message)
        if window.is_full(event.message.partition):
            self._pause(event.message.partition)
        return window.has_room

    async def room(self) -> None:
        """Waits until memory allows more."""
        window = self._worker.window
        await window.conditions.until(lambda: window.has_room)

    async def quiesce(self, app: LaneApp) -> None:
        """Waits for calls under way, for a moment on a rebalance, longer at the end; commits the prefix.

        Faust has dropped its own record of what was acknowledged by then.
        """
        prefixes = await self._worker.quiesce(is_ending=app.should_stop)
        self._paused.clear()
        await app.commit(self._topic, prefixes)

    def _acknowledge(self, messages: Sequence[Any]) -> None:
        for message in messages:
            message.ack(self._consumer)
        self._resume()

    def _pause(self, partition: int) -> None:
        """Stops reading a full partition, as Faust does with a full buffer: what was fetched still comes."""
        self._consumer.on_buffer_full(TP(self._topic, partition))
        self._paused.add(partition)

    def _resume(self) -> None:
        if self._paused:
            free = {partition for partition in self._paused if not self._worker.window.is_full(partition)}
            for partition in free:
                self._consumer.on_buffer_drop(TP(self._topic, partition))
            self._paused -= free
