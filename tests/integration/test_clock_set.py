"""The process's clock is set by Postgres, as closely as the quickest of its answers tells."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from streams.clock import TrustedClock, set_clock
from tests.fixtures.service import Service


async def test_a_clock_that_is_wrong_by_an_hour_is_set_within_milliseconds(service: Service) -> None:
    clock = TrustedClock(wall=lambda: datetime.now(UTC) - timedelta(hours=1))
    assert datetime.now(UTC) - clock() > timedelta(minutes=59)
    await set_clock(service.engine, clock)
    # The same machine, so the same clock; Kafka and others may keep both cores for a while.
    assert abs(datetime.now(UTC) - clock()) < timedelta(milliseconds=50)
