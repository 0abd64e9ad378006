"""Jumps of an hour, of any clock, make nothing early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from streams.clock import PATIENCE, TOLERANCE, TrustedClock

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class World:
    """A machine with a wall clock and a database; both may be wrong by some time."""

    def __init__(self) -> None:
        self.elapsed = timedelta()
        self.wall_error = timedelta()
        self.database_error = timedelta()
        self.clock = TrustedClock(
            steady_seconds=lambda: 1000 + self.elapsed.total_seconds(), wall=lambda: self.true + self.wall_error
        )

    @property
    def true(self) -> datetime:
        return NOON + self.elapsed

    def set(self) -> bool:
        return self.clock.set_by(self.true + self.database_error)

    def pass_time(self, span: timedelta) -> None:
        """Some time, in which the clock is set twice a minute as the worker does it."""
        ends = self.elapsed + span
        while self.elapsed < ends:
            self.elapsed += timedelta(seconds=30)
            self.set()


@pytest.fixture
def world() -> World:
    made = World()
    made.set()
    return made


def test_it_goes_on(world: World) -> None:
    world.pass_time(timedelta(hours=3))
    assert world.clock() == world.true


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_the_machines_own_clock_may_jump(world: World, jump: timedelta) -> None:
    world.wall_error = jump
    world.pass_time(timedelta(days=1))
    assert world.clock() == world.true


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_the_databases_clock_may_jump(world: World, jump: timedelta) -> None:
    world.database_error = jump
    world.pass_time(timedelta(days=1))
    assert world.clock() == world.true


def test_drift_is_followed(world: World) -> None:
    for _ in range(100):
        world.database_error += TOLERANCE / 2
        assert world.set()
    assert world.clock() == world.true + world.database_error


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_what_two_clocks_say_for_ten_minutes_is_the_time(world: World, jump: timedelta) -> None:
    world.wall_error = world.database_error = jump
    world.pass_time(PATIENCE)
    assert world.clock() == world.true
    world.pass_time(timedelta(minutes=1))
    assert world.clock() == world.true + jump


def test_a_jump_there_and_back_is_forgotten(world: World) -> None:
    for _ in range(5):
        world.wall_error = world.database_error = HOUR
        world.pass_time(PATIENCE - timedelta(minutes=1))
        world.wall_error = world.database_error = timedelta()
        world.pass_time(timedelta(minutes=2))
    assert world.clock() == world.true


def test_a_machine_with_a_wrong_clock_is_set_right_at_the_start() -> None:
    world = World()
    world.wall_error = HOUR
    world.clock = TrustedClock(
        steady_seconds=lambda: world.elapsed.total_seconds() + 1, wall=lambda: world.true + world.wall_error
    )
    assert world.clock() == world.true + HOUR
    assert world.set()
    assert world.clock() == world.true
