"""What time it is, for everything that waits until a time.

The wall clock of a machine may jump: a step of NTP, a restored VM, a hand. An hour forward, and what was to be tried
again later is sent now, and what has until noon expires at eleven. So a process asks its own wall clock only once, at
its start; from then on it counts seconds (also those that the machine slept), and sets itself by Postgres, whose time
all processes share. A step of that is believed when the wall clock of this machine says the same, and goes on saying it
for ten minutes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from streams.errors import is_passing
from streams.metrics import CLOCK_STEP

log = structlog.get_logger()

#: Up to this it is drift, or the way to the database and back.
TOLERANCE: Final = timedelta(seconds=2)
#: How long two clocks must agree on a step.
PATIENCE: Final = timedelta(minutes=10)
_SET_SECONDS = 30.0
#: Of several answers the quickest says the time best, as in NTP: a busy loop reads the others late.
_ANSWERS = 5
_ASK_SECONDS = 5.0


def _steady_seconds() -> float:
    """Seconds that no one sets; where the platform can, with those that the machine slept."""
    if hasattr(time, "CLOCK_BOOTTIME"):
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    return time.monotonic()


class TrustedClock:
    """The time of day, counted from a beginning. Called, it tells the time."""

    def __init__(
        self,
        *,
        steady_seconds: Callable[[], float] = _steady_seconds,
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._steady_seconds = steady_seconds
        self._wall = wall
        #: The time when the steady seconds were 0.
        self._origin = wall() - timedelta(seconds=steady_seconds())
        self._is_set = False
        self._stepped_at: float | None = None

    def __call__(self) -> datetime:
        return self._origin + timedelta(seconds=self._steady_seconds())

    def set_by(self, reference: datetime) -> bool:
        """Compares with the time that the reference says it is now; returns whether that was believed.

        The first one always is. A clock that goes wrong after it is waited out.
        """
        step = reference - self()
        CLOCK_STEP.set(step.total_seconds())
        if not self._is_set or abs(step) <= TOLERANCE or self._is_confirmed(reference, step):
            self._origin += step
            self._is_set = True
            self._stepped_at = None
            return True
        return False

    def _is_confirmed(self, reference: datetime, step: timedelta) -> bool:
        if abs(self._wall() - reference) > TOLERANCE:
            self._stepped_at = None
            return False
        now = self._steady_seconds()
        if self._stepped_at is None:
            self._stepped_at = now
            log.warning("the clocks have jumped: not believed yet", step_seconds=round(step.total_seconds()))
        return now - self._stepped_at >= PATIENCE.total_seconds()


#: The clock of this process, as there is one registry of metrics.
now = TrustedClock()


async def keep_set(engine: AsyncEngine, clock: TrustedClock = now) -> None:
    """Sets the clock by the database now and then, until cancelled; while that is away the clock goes on alone."""
    while True:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                await set_clock(engine, clock)
        except Exception as error:
            if not is_passing(error):
                raise
            log.debug("the clock was not set", error=type(error).__name__)
        await asyncio.sleep(_SET_SECONDS)


async def set_clock(engine: AsyncEngine, clock: TrustedClock = now) -> None:
    """Sets the clock by the database once."""
    async with engine.connect() as connection:
        await connection.execute(text("SELECT 1"))  # the way is open: what follows takes a round trip
        _took, ahead = min([await _asked(connection, clock) for _ in range(_ANSWERS)])
    clock.set_by(clock() + ahead)


async def _asked(connection: AsyncConnection, clock: TrustedClock) -> tuple[timedelta, timedelta]:
    """How long an answer took, and how far the database's time is ahead by it."""
    began = clock()
    reference = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
    took = clock() - began
    return took, reference - (began + took / 2)
