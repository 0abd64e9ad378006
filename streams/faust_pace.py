"""Lets Faust hand over several records in one turn of the loop.

A Faust stream goes once around the loop (`await sleep(0)`) for each record. Where the loop is busy, a turn takes
a millisecond, so a lane could be fed no more than a thousand records a second however idle the rest of the machine: the
feeding, not the work, was the limit. Here a stream goes around once for every few records.

And a Faust consumer makes four tasks for each record, so that it stops waiting for room when it is told to stop, and
cancels three of them: a tenth of a worker's time. There nearly always is room; only where there is none does ours wait
like Faust's.

This reaches into Faust (pinned; `tests/unit/test_faust_pace.py` guards it).
"""

from __future__ import annotations

import asyncio
import inspect
import itertools
import types
from collections.abc import Coroutine, Generator
from typing import Any

from faust._cython import streams as compiled
from mode import Service
from mode.services import WaitResults

#: Records handed over in one turn: about a millisecond's work of Faust's.
RECORDS_A_TURN = 16

_calls = itertools.count()


async def _sleep(delay: float) -> None:
    if delay or next(_calls) % RECORDS_A_TURN == 0:
        await asyncio.sleep(delay)


def hand_over_several_a_turn() -> None:
    """From now on, for all streams of this process."""
    compiled.sleep = _sleep


class HandsOverAtOnce(Service):  # type: ignore[misc]
    """For a consumer: what needs no waiting is done without tasks."""

    async def wait_first(self, *coros: Any, timeout: Any = None) -> WaitResults:
        """As Faust's own, of which this consumer asks `wait_first(hand over the record, be told to stop)`."""
        work, *others = coros
        if not inspect.iscoroutine(work):
            return await super().wait_first(*coros, timeout=timeout)
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
