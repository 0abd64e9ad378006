"""Many callers, one transaction: what arrives while a batch is being written goes into the next one together.

Alone a caller waits for nobody; under load the cost of a commit is shared. A batch costs some hundred microseconds
whatever its size, so while several callers come at a time the next batch waits a moment for company.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from streams.errors import is_refusal

Item = TypeVar("Item")
Answer = TypeVar("Answer")

#: So many callers at a time say that more will come.
_SEVERAL = 3


class Gathering(Generic[Item, Answer]):
    """Gathers single calls into batches for `work`, which answers each item in order.

    After a batch of several, the next one waits `pause_seconds`.
    """

    def __init__(
        self,
        work: Callable[[Sequence[Item]], Awaitable[Sequence[Answer]]],
        *,
        most: int = 200,
        pause_seconds: float = 0.0,
    ) -> None:
        self._work = work
        self._most = most
        self._pause_seconds = pause_seconds
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def add(self, item: Item) -> Answer:
        """The answer for this item. Raises what `work` raised for the batch that it was in."""
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        try:
            while self._waiting:
                # Who was not patient enough is told nothing any more, so nothing is done for them.
                wanted = [(item, future) for item, future in self._waiting if not future.done()]
                batch, self._waiting = wanted[: self._most], wanted[self._most :]
                if batch:
                    await self._answer(batch)
                if len(batch) >= _SEVERAL and self._pause_seconds:
                    await asyncio.sleep(self._pause_seconds)
        finally:
            self._writer = None

    async def _answer(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        """Items that the database refuses are found by halving, so that one caller's can't fail another's."""
        try:
            answers = await self._work([item for item, _ in batch])
        except Exception as error:
            if is_refusal(error) and len(batch) > 1:
                middle = len(batch) // 2
                await self._answer(batch[:middle])
                await self._answer(batch[middle:])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), answer in zip(batch, answers, strict=True):
            if not future.done():  # its caller may have gone
                future.set_result(answer)
