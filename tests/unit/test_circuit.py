"""A server that failed is asked by one caller at a time."""

from __future__ import annotations

import pytest

from models.circuit import Circuit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def circuit(clock: Clock) -> Circuit:
    return Circuit(failures=2, rest_seconds=0.5, probe_seconds=3.0, clock=clock)


def fail(circuit: Circuit, clock: Clock, times: int = 2) -> None:
    for _ in range(times):
        began = circuit.now()
        clock.now += 2
        circuit.failed(began)


def test_all_pass_until_it_fails_and_then_one_after_a_rest(circuit: Circuit, clock: Clock) -> None:
    assert circuit.lets_pass() and circuit.lets_pass()
    fail(circuit, clock)
    assert circuit.is_failing
    assert not circuit.lets_pass()
    clock.now += 0.5
    assert [circuit.lets_pass() for _ in range(3)] == [True, False, False]


def test_a_success_between_two_failures_forgives(circuit: Circuit, clock: Clock) -> None:
    for _ in range(5):
        fail(circuit, clock, 1)
        circuit.worked()
    assert not circuit.is_failing


def test_a_crowd_that_waited_for_one_hitch_is_one_failure(circuit: Circuit, clock: Clock) -> None:
    began = circuit.now()
    for _ in range(100):
        clock.now += 0.01
        circuit.failed(began)
    assert not circuit.is_failing
    fail(circuit, clock, 1)
    assert circuit.is_failing


def test_the_probe_decides(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, clock)
    clock.now += 0.5
    assert circuit.lets_pass()
    circuit.failed(circuit.now())
    clock.now += 0.4
    assert not circuit.lets_pass()
    clock.now += 0.1
    assert circuit.lets_pass()
    circuit.worked()
    assert not circuit.is_failing
    assert circuit.lets_pass() and circuit.lets_pass()


def test_a_probe_that_never_says_is_followed_by_another(circuit: Circuit, clock: Clock) -> None:
    fail(circuit, clock)
    clock.now += 0.5
    assert circuit.lets_pass()
    clock.now += 2.9
    assert not circuit.lets_pass()
    clock.now += 0.1
    assert circuit.lets_pass()
