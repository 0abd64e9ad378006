"""Long work in short turns: whatever shares the loop, an urgent lane above all, gets its turn in between."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")

#: How long a turn may last; an item that takes longer makes a turn of its own.
_TURN_SECONDS = 0.002


async def in_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """The same items; when they have taken a turn's time, the loop runs everything else that is ready."""
    began = time.perf_counter()
    for item in items:
        yield item
        if time.perf_counter() - began > _TURN_SECONDS:
            await asyncio.sleep(0)
            began = time.perf_counter()
