"""The memory of a long-running process."""

from __future__ import annotations

import ctypes
import gc
import os

#: glibc's `M_ARENA_MAX` (https://man7.org/linux/man-pages/man3/mallopt.3.html).
_ARENA_MAX = -8
_ARENAS = 2


def few_arenas() -> None:
    """Lets all threads share two of glibc's heaps, unless `MALLOC_ARENA_MAX` says otherwise.

    Each lane's consumer has a thread; with a heap each, 20 MB are free in one and wanted in another. They seldom wait
    for each other, because one of them has the interpreter's lock. Nothing where libc is another.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(_ARENA_MAX, _ARENAS)


def calm_collector() -> None:
    """Lets the garbage collector look less often, and not at what is loaded by now, which stays.

    A batch makes tens of thousands of small objects that go away by themselves; looking through the whole heap after
    every seven hundred of them took a third of a worker's time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
