"""The watchdog bites where a lane has work and does nothing, and nowhere else."""

from __future__ import annotations

import asyncio

import pytest

from streams.errors import persistently
from streams.metrics import HOLDING
from streams.watchdog import Progress, Watchdog, holds, progress_of


class Kennel:
    """A watchdog over one lane, and what it bit."""

    def __init__(self) -> None:
        self.lane = Progress("lane")
        self.bitten: list[tuple[str, float]] = []
        self._dog = Watchdog(
            lanes=lambda: [self.lane], limit_seconds=60, end=lambda name, seconds: self.bitten.append((name, seconds))
        )

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self._dog.look(1.0)


@pytest.fixture
def kennel() -> Kennel:
    return Kennel()


def test_a_lane_with_work_and_no_step_for_a_minute_is_bitten(kennel: Kennel) -> None:
    with kennel.lane.working():
        kennel.pass_time(60)
        assert kennel.bitten == []
        kennel.pass_time(1)
    assert kennel.bitten == [("lane", 60.0)]


def test_each_step_begins_the_minute_anew(kennel: Kennel) -> None:
    with kennel.lane.working():
        for _ in range(5):
            kennel.pass_time(59)
            kennel.lane.beat()
    assert kennel.bitten == []


def test_a_lane_without_work_is_left_in_peace(kennel: Kennel) -> None:
    kennel.pass_time(600)
    assert kennel.bitten == []
    with kennel.lane.working():
        kennel.pass_time(59)
    assert kennel.bitten == []


@pytest.mark.parametrize("told", ["asked", "lags"])
def test_work_may_also_be_asked_for_or_seen_from_outside(kennel: Kennel, told: str) -> None:
    if told == "asked":
        kennel.lane.watch(lambda: True)
    else:
        kennel.lane.lags = True
    kennel.pass_time(61)
    assert kennel.bitten


def test_a_lane_that_holds_is_exempt_and_has_a_whole_minute_after_it(kennel: Kennel) -> None:
    with kennel.lane.working():
        kennel.pass_time(50)
        with kennel.lane.holding("provider"), kennel.lane.holding("postgres"):
            kennel.pass_time(600)
        kennel.pass_time(60)
        assert kennel.bitten == []
        kennel.pass_time(1)
    assert kennel.bitten


def test_time_in_which_the_whole_process_was_stopped_does_not_count(kennel: Kennel) -> None:
    dog_sees_hours = 3600.0
    with kennel.lane.working():
        for _ in range(29):
            kennel._dog.look(dog_sees_hours)
    assert kennel.bitten == []


def test_holds_are_told_by_lane() -> None:
    lane = progress_of("a-lane-of-this-test")
    assert lane is progress_of("a-lane-of-this-test")
    with lane.holding("postgres"):
        with lane.holding("postgres"):
            pass
        assert holds()["a-lane-of-this-test"] == "postgres"
        assert HOLDING.labels(lane.name)._value.get() == 1
    assert lane.name not in holds()
    assert HOLDING.labels(lane.name)._value.get() == 0


async def test_work_that_is_repeated_holds_between_its_tries() -> None:
    lane, seen = progress_of("persistent"), []

    async def work() -> str:
        seen.append(lane.hold)
        if len(seen) < 3:
            raise ConnectionRefusedError
        return "done"

    before = lane.beats
    assert await persistently(work, lane="persistent") == "done"
    assert seen == [None, None, None]
    assert lane.beats > before


async def test_the_log_tells_where_tasks_wait_and_nothing_of_what_they_hold() -> None:
    from streams.watchdog import _waits

    async def waiting(secret: str) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(waiting("ada@example.com"))
    await asyncio.sleep(0)
    found = [where for where in _waits() if "waiting" in where]
    task.cancel()
    assert len(found) == 1
    assert "test_watchdog.py" in found[0] and "wait" in found[0]
    assert "ada@" not in found[0]
