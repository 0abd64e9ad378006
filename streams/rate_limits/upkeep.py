"""Keeps the limits of a process fresh: definitions each second, a sign of life, and samples in turn."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from models.limits import Sample
from models.repositories import rate_limits
from streams.domain.limits import Definitions
from streams.errors import is_passing
from streams.rate_limits.scripts import LimitScripts
from streams.rate_limits.service import RateLimits

log = structlog.get_logger()

#: A changed limit holds in all workers after this, and the time of a query.
REFRESH_SECONDS = 1.0


class Upkeep:
    """Refreshes until it is cancelled. While a server is away, what was known last holds."""

    def __init__(self, limits: RateLimits, scripts: LimitScripts, *, engine: AsyncEngine, worker: str) -> None:
        self._limits = limits
        self._scripts = scripts
        self._engine = engine
        self._worker = worker
        self._is_stale = False

    async def run(self) -> None:
        """Keeps everything fresh, for ever."""
        while True:
            await asyncio.gather(self.read(), self.show())
            await asyncio.sleep(REFRESH_SECONDS)

    async def read(self) -> None:
        """Reads the definitions once."""
        try:
            async with asyncio.timeout(5), self._engine.connect() as connection:
                found = await rate_limits.every(connection)
        except Exception as error:
            if not self._is_stale:
                log.warning("limits are not refreshed", error=type(error).__name__, is_away=is_passing(error))
            self._is_stale = True
            return
        self._is_stale = False
        self._limits.define(Definitions.of(found))

    async def show(self) -> None:
        """Says that this worker lives; takes samples when it is its turn."""
        workers = await self._limits.sign_of_life(self._worker)
        if workers is not None and workers.is_our_turn:
            await self.sample()

    async def sample(self) -> None:
        """Keeps how full the shared buckets are."""
        shared = self._limits.definitions.all_shared()
        if not shared:
            return
        try:
            async with asyncio.timeout(5):
                states = await self._scripts.states(shared)
                now = datetime.now(UTC)
                samples = [
                    Sample(scope=limit.scope, target=limit.target, tokens=state.tokens, sampled_at=now)
                    for limit, state in zip(shared, states, strict=True)
                ]
                async with self._engine.begin() as connection:
                    await rate_limits.sample(connection, samples)
        except Exception as error:
            log.info("no samples of limits this time", error=type(error).__name__)
