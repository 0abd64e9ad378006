"""Many callers, one call: what comes in one turn of the event loop is done together.

Nobody waits for company: who comes alone is a batch, and a batch does not wait for the one before it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Together(Generic[Item]):
    """Gives `work` the items of all callers of a turn. It does all of them, or raises the same for all."""

    def __init__(self, work: Callable[[Sequence[Item]], Awaitable[object]]) -> None:
        self._work = work
        self._coming: list[tuple[Item, asyncio.Future[None]]] = []
        self._working: set[asyncio.Task[None]] = set()

    async def add(self, item: Item) -> None:
        """Returns when the item is done. Raises what `work` raised for those that it was done with."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._coming.append((item, done))
        if len(self._coming) == 1:
            task = asyncio.create_task(self._do())
            self._working.add(task)  # the loop itself keeps no hold of it
            task.add_done_callback(self._working.discard)
        await done

    async def _do(self) -> None:
        batch, self._coming = self._coming, []
        error: Exception | None = None
        try:
            await self._work([item for item, _ in batch])
        except Exception as raised:
            error = raised
        for _, done in batch:
            if done.done():  # its caller has gone
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)
