"""Long work in short turns: whatever shares the loop, an urgent lane above all, gets its turn in between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from typing import TypeVar

T = TypeVar("T")


async def in_turns(items: Iterable[T], *, size: int = 16) -> AsyncIterator[T]:
    """The same items; the loop runs everything else that is ready after each `size` of them."""
    for number, item in enumerate(items):
        if number and number % size == 0:
            await asyncio.sleep(0)
        yield item
