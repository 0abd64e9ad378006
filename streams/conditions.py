"""Waiting until something holds. Who waits is woken when its condition holds, not whenever something happened.

An `asyncio.Event` or `Condition` wakes everybody for each record, to look and wait again; that took a twentieth of a
worker's time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

Condition = Callable[[], bool]


class Conditions:
    """What several tasks of one loop wait for."""

    def __init__(self) -> None:
        self._waiting: list[tuple[Condition, asyncio.Future[bool]]] = []

    def notify(self) -> None:
        """Something changed that a condition may depend on."""
        for condition, future in self._waiting:
            if not future.done() and condition():
                future.set_result(True)

    async def until(self, condition: Condition, *, seconds: float | None = None) -> bool:
        """Waits for a condition, at most so long; whether it held. It may be over again when the caller goes on."""
        if condition():
            return True
        if seconds is not None and seconds <= 0:
            return False
        loop = asyncio.get_running_loop()
        future: asyncio.Future[bool] = loop.create_future()
        alarm = None if seconds is None else loop.call_later(seconds, _give_up, future)
        waiting = (condition, future)
        self._waiting.append(waiting)
        try:
            return await future
        finally:
            self._waiting.remove(waiting)
            if alarm is not None:
                alarm.cancel()


def _give_up(future: asyncio.Future[bool]) -> None:
    if not future.done():
        future.set_result(False)
