"""Records that wait in the database go to their topics: the outbox as soon as Kafka is back, schedules when due."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any

import structlog
from mode import Service
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.repositories import outbox
from models.repositories.outbox import Taken
from streams.clock import now
from streams.errors import is_passing
from streams.intake import Publishes
from streams.records import Outgoing
from streams.watchdog import progress_of

log = structlog.get_logger()

_BATCH_RECORDS = 500
_PAUSE_SECONDS = 0.5
_PAUSE_AFTER_ERROR_SECONDS = 2.0

Take = Callable[[AsyncConnection, int], Awaitable[list[Taken]]]
Delete = Callable[[AsyncConnection, Sequence[Any]], Awaitable[None]]


class WaitingRoom(Service):  # type: ignore[misc]
    """Publishes what `take` finds and deletes it after acks=all, in one transaction that holds the rows' locks.

    A crash before the commit publishes again; ids make that harmless.
    """

    def __init__(
        self, name: str, *, take: Take, delete: Delete, engine: AsyncEngine, publisher: Publishes, **service: Any
    ) -> None:
        super().__init__(**service)
        self._name = name
        self._take = take
        self._delete = delete
        self._engine = engine
        self._publisher = publisher

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        progress = progress_of(self._name)
        with progress.working():
            while not self.should_stop:
                progress.beat()
                try:
                    moved = await self.move()
                except Exception as error:
                    if not is_passing(error):
                        raise
                    log.warning("waiting: a server is away", room=self._name, error=type(error).__name__)
                    with progress.holding(type(error).__name__):
                        await self.sleep(_PAUSE_AFTER_ERROR_SECONDS)
                else:
                    if moved < _BATCH_RECORDS:
                        await self.sleep(_PAUSE_SECONDS)

    async def move(self) -> int:
        """Publishes one batch; returns how many records it had."""
        async with self._engine.begin() as connection:
            taken = await self._take(connection, _BATCH_RECORDS)
            if taken:
                progress_of(self._name).beat()
                await self._publisher.send_all([_outgoing(one) for one in taken])
                progress_of(self._name).beat()
                await self._delete(connection, [one.id for one in taken])
        return len(taken)


def outbox_room(engine: AsyncEngine, publisher: Publishes) -> WaitingRoom:
    """Publishes the outbox, oldest first, one process at a time."""
    return WaitingRoom(
        "outbox", take=outbox.take_queued, delete=outbox.delete_queued, engine=engine, publisher=publisher
    )


def schedule_room(engine: AsyncEngine, publisher: Publishes, *, clock: Callable[[], datetime] = now) -> WaitingRoom:
    """Publishes schedules whose time has come."""

    async def take(connection: AsyncConnection, limit: int) -> list[Taken]:
        return await outbox.take_due(connection, limit, now=clock())

    return WaitingRoom("schedules", take=take, delete=outbox.delete_due, engine=engine, publisher=publisher)


def _outgoing(taken: Taken) -> Outgoing:
    headers = tuple((name, value.encode()) for name, value in taken.headers.items())
    return Outgoing(taken.topic, taken.key, taken.value, headers)
