"""Watches how much of each category's e-mail comes back, by one process of the cluster at a time.

Mailbox providers judge a sender by it: at 5 % they look, at 10 % they stop taking mail, also the receipts. So operators
are warned at the first, and at the second the category's bulk (priority low) is held back until one of them says go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import structlog
from mode import Service
from sqlalchemy.ext.asyncio import AsyncEngine

from models.repositories import bounce_rates as table
from models.repositories.bounce_rates import BounceRate
from models.settings import Settings
from streams.errors import is_passing, sqlstate
from streams.metrics import BOUNCE_RATE, CATEGORIES_PAUSED

log = structlog.get_logger()

EVERY = timedelta(seconds=30)


class BounceGuard(Service):  # type: ignore[misc]
    """Takes turns with the guards of other processes; whoever has the turn also shows the gauges."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        settings: Settings,
        every: timedelta = EVERY,
        settled: timedelta | None = None,
        **service: Any,
    ) -> None:
        super().__init__(**service)
        self._engine = engine
        self._settings = settings
        self._every = every
        #: A claimed attempt has its outcome after a lease, or is taken over.
        self._settled = settings.claim_lease * 2 if settled is None else settled
        self._warned: set[str] = set()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        while not self.should_stop:
            try:
                await self.look()
            except Exception as error:  # Nothing that goes wrong here is worth ending the lanes of this process.
                _forget_gauges()
                reason = "a server is away" if is_passing(error) else sqlstate(error) or "odd"
                log.warning("bounce rates unknown", error=type(error).__name__, reason=reason)
            await self.sleep(self._every.total_seconds())

    async def look(self) -> Sequence[BounceRate]:
        """Counts, and pauses what must be, if it is this process's turn; empty if not."""
        window = timedelta(hours=self._settings.bounce_rate_hours)
        async with self._engine.begin() as connection:
            is_ours = await table.count(connection, every=self._every, settled=self._settled, window=window)
            found = await table.rates(connection, window=window) if is_ours else []
            new = [one for one in found if self._is_too_bad(one) and await table.pause(connection, one)]
        self._tell(found, new)
        return found

    def _is_known(self, one: BounceRate) -> bool:
        return one.sent >= self._settings.bounce_rate_least_sent

    def _is_too_bad(self, one: BounceRate) -> bool:
        return self._is_known(one) and one.rate >= self._settings.bounce_rate_pause

    def _tell(self, found: Sequence[BounceRate], new: Sequence[BounceRate]) -> None:
        _forget_gauges()
        paused = {one.category for one in new}
        for one in found:
            is_bad = self._is_known(one) and one.rate >= self._settings.bounce_rate_warning
            if one.is_paused or one.category in paused:
                CATEGORIES_PAUSED.labels(one.category).set(1)
            if is_bad:
                BOUNCE_RATE.labels(one.category).set(one.rate)
                self._warn(one)
            else:
                self._warned.discard(one.category)
        for one in new:
            log.error("bulk of a category is paused", category=one.category, sent=one.sent, bounced=one.bounced)

    def _warn(self, one: BounceRate) -> None:
        """Once, until it was better."""
        if one.category not in self._warned:
            self._warned.add(one.category)
            log.warning("many e-mails come back", category=one.category, sent=one.sent, bounced=one.bounced)


def _forget_gauges() -> None:
    BOUNCE_RATE.clear()
    CATEGORIES_PAUSED.clear()
