"""Lets Faust hand over several records in one turn of the loop.

A Faust stream goes once around the loop (`await sleep(0)`) for each record. Where the loop is busy, a turn takes
a millisecond, so a lane could be fed no more than a thousand records a second however idle the rest of the machine: the
feeding, not the work, was the limit. Here a stream goes around once for every few records.

This reaches into Faust (pinned; `tests/unit/test_faust_pace.py` guards it).
"""

from __future__ import annotations

import asyncio
import itertools

from faust._cython import streams as compiled

#: Records handed over in one turn: about a millisecond's work of Faust's.
RECORDS_A_TURN = 16

_calls = itertools.count()


async def _sleep(delay: float) -> None:
    if delay or next(_calls) % RECORDS_A_TURN == 0:
        await asyncio.sleep(delay)


def hand_over_several_a_turn() -> None:
    """From now on, for all streams of this process."""
    compiled.sleep = _sleep
