"""CPU time of work that is meant to be bounded."""

from __future__ import annotations

import time
from collections.abc import Callable

_TRIES = 3


def cpu_seconds(work: Callable[[], object], *, enough: float) -> float:
    """The least CPU time of a few runs: that is the work, the rest is the machine's other tenants.

    Stops at the first run that takes less than `enough` seconds.
    """
    least = float("inf")
    for _ in range(_TRIES):
        started = time.thread_time()
        work()
        least = min(least, time.thread_time() - started)
        if least < enough:
            break
    return least
