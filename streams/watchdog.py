"""Ends a process in which a lane hangs, so that its supervisor starts it again.

Faust can hang alive: a consumer that left its group, a future that nobody sets. A lane that has work tells its
`Progress` of each step; the watchdog, a thread of its own so that it also notices an event loop that is stuck, ends the
process when there was none for a minute. A lane that holds, because a server or its provider is away or its pace is
used up, says so and is exempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import structlog

from streams.metrics import HOLDING

log = structlog.get_logger()

#: The exit code of a process that the watchdog ended (sysexits.h: an internal software error).
STUCK_EXIT_CODE: Final = 70
_LIMIT_SECONDS = 60.0
_LOOK_SECONDS = 1.0
#: Of what the log is told at the end.
_MOST_WAITS = 60
_DEEPEST = 40


class Progress:
    """What one lane tells of itself. Told by the lane's own thread, read by the watchdog's."""

    def __init__(self, name: str) -> None:
        self.name = name
        #: Steps so far; only that it changes counts.
        self.beats = 0
        #: Told by whoever watches from outside: there are records that this lane should be reading.
        self.lags = False
        self._asks: Callable[[], bool] | None = None
        self._busy = 0
        self._holds: Counter[str] = Counter()

    def beat(self) -> None:
        """A step was made: records read, claimed, recorded or acknowledged."""
        self.beats += 1

    def watch(self, has_work: Callable[[], bool]) -> None:
        """Sets how the watchdog learns that there is work in hand. It asks from its own thread, every second."""
        self._asks = has_work

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """There is work in hand as long as this lasts."""
        self._busy += 1
        try:
            yield
        finally:
            self._busy -= 1
            self.beat()

    @contextlib.contextmanager
    def holding(self, reason: str) -> Iterator[None]:
        """The lane waits on purpose; `reason` is for the log: what it waits for."""
        self._holds[reason] += 1
        HOLDING.labels(self.name).set(1)
        try:
            yield
        finally:
            self._holds -= Counter([reason])
            HOLDING.labels(self.name).set(1 if self._holds else 0)
            self.beat()

    @property
    def hold(self) -> str | None:
        """What the lane waits for; None while it works."""
        return next(iter(list(self._holds)), None)

    @property
    def has_work(self) -> bool:
        """Whether the lane ought to be getting on."""
        return self.lags or self._busy > 0 or (self._asks is not None and self._asks())


_lanes: dict[str, Progress] = {}


def progress_of(lane: str) -> Progress:
    """The progress of a lane of this process, by its name: always the same one, as with a metric."""
    return _lanes.setdefault(lane, Progress(lane))


def holds() -> dict[str, str]:
    """The lanes of this process that hold, and why."""
    found = {name: progress.hold for name, progress in list(_lanes.items())}
    return {name: reason for name, reason in found.items() if reason is not None}


def _end(lane: str, seconds: float) -> None:
    log.error("lane makes no progress: the process ends", lane=lane, seconds=round(seconds))
    with contextlib.suppress(Exception):  # whatever it is, the process must end
        for where, count in _waits().most_common(_MOST_WAITS):
            log.error("where it stood", tasks=count, at=where)
    sys.stderr.flush()
    os._exit(STUCK_EXIT_CODE)


def _waits() -> Counter[str]:
    """Where the tasks of all loops of this process wait: places in the code, outermost first, and how many tasks."""
    tasks: Iterable[asyncio.Task[Any]] = list(asyncio.tasks._all_tasks)  # type: ignore[attr-defined]
    return Counter(" < ".join(reversed(_places(task.get_coro()))) for task in tasks if not task.done())


def _places(awaited: Any) -> list[str]:
    places: list[str] = []
    while awaited is not None and len(places) < _DEEPEST:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno} {frame.f_code.co_name}")
        awaited = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
    return places


class Watchdog:
    """Looks at all lanes every second; `end` is called with the first that is stuck, and for how long it was."""

    def __init__(
        self,
        *,
        lanes: Callable[[], list[Progress]] = lambda: list(_lanes.values()),
        limit_seconds: float = _LIMIT_SECONDS,
        end: Callable[[str, float], None] = _end,
    ) -> None:
        self._lanes = lanes
        self._limit_seconds = limit_seconds
        self._end = end
        self._seen: dict[str, int] = {}
        self._still: dict[str, float] = {}

    def look(self, elapsed_seconds: float) -> None:
        """One look, so long after the one before.

        What counts is the time that this thread itself was running: a process that was stopped as a whole, or a machine
        that slept, wakes with nothing held against it.
        """
        elapsed_seconds = min(elapsed_seconds, 2 * _LOOK_SECONDS)
        for lane in self._lanes():
            moved = self._seen.get(lane.name) != lane.beats
            self._seen[lane.name] = lane.beats
            if moved or lane.hold is not None or not lane.has_work:
                self._still[lane.name] = 0.0
                continue
            self._still[lane.name] = self._still.get(lane.name, 0.0) + elapsed_seconds
            if self._still[lane.name] >= self._limit_seconds:
                self._end(lane.name, self._still[lane.name])

    def start(self) -> None:
        """Begins to watch, the loop that runs this one too."""
        loop = asyncio.get_running_loop()
        own = progress_of("event-loop")
        own.watch(lambda: not loop.is_closed())

        def turn() -> None:
            own.beat()
            loop.call_later(_LOOK_SECONDS, turn)

        turn()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def _watch(self) -> None:
        before = time.monotonic()
        while True:
            time.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            self.look(now - before)
            before = now
