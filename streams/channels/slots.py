"""The calls that a provider takes at once, shared by the lanes of a process: who waits for people goes first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from models.enums import Priority


class Slots:
    """A semaphore that lets `high` in before `normal` before `low`; first come, first served within each."""

    def __init__(self, most: int) -> None:
        self._free = most
        self._queues: dict[Priority, deque[asyncio.Future[None]]] = {priority: deque() for priority in Priority}

    @asynccontextmanager
    async def one(self, priority: Priority, *, within_seconds: float) -> AsyncIterator[None]:
        """A slot for the time of the block.

        Raises:
            TimeoutError: when there is none in time.
        """
        if self._free > 0:
            self._free -= 1
        else:
            await self._queue_up(priority, within_seconds)
        try:
            yield
        finally:
            self._pass_on()

    async def _queue_up(self, priority: Priority, seconds: float) -> None:
        queue = self._queues[priority]
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(mine)
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await mine
        except BaseException:
            if mine.done() and not mine.cancelled():  # it came at the same moment
                self._pass_on()
            else:
                with suppress(ValueError):
                    queue.remove(mine)
            raise

    def _pass_on(self) -> None:
        for queue in self._queues.values():
            while queue:
                waiting = queue.popleft()
                if not waiting.done():
                    waiting.set_result(None)
                    return
        self._free += 1
