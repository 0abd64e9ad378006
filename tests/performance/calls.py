"""What one call of something small costs."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.unit.cpu import cpu_seconds

_TRIES = 3


def mean_seconds(work: Callable[[], object], *, enough: float, calls: int = 500) -> float:
    """CPU seconds of a call, on average over many; the least of a few runs, or the first that is `enough`."""

    def repeat() -> None:
        for _ in range(calls):
            work()

    work()
    return cpu_seconds(repeat, enough=enough * calls) / calls


def p99_seconds(work: Callable[[], object], *, enough: float, calls: int = 1_000) -> float:
    """CPU seconds that 99 of 100 calls stay below; the least of a few runs, or the first that is `enough`."""
    work()
    least = float("inf")
    for _ in range(_TRIES):
        times = []
        for _ in range(calls):
            started = time.thread_time()
            work()
            times.append(time.thread_time() - started)
        least = min(least, sorted(times)[calls * 99 // 100])
        if least < enough:
            break
    return least
