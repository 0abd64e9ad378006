"""A server that failed is asked by one caller at a time."""

from __future__ import annotations

from models.circuit import Circuit


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_all_pass_until_it_fails_and_then_one_after_a_rest() -> None:
    clock = Clock()
    circuit = Circuit(rest_seconds=0.5, probe_seconds=3.0, clock=clock)
    assert circuit.lets_pass() and circuit.lets_pass()
    circuit.failed()
    assert circuit.is_failing
    assert not circuit.lets_pass()
    clock.now += 0.5
    assert [circuit.lets_pass() for _ in range(3)] == [True, False, False]


def test_the_probe_decides() -> None:
    clock = Clock()
    circuit = Circuit(rest_seconds=0.5, probe_seconds=3.0, clock=clock)
    circuit.failed()
    clock.now += 0.5
    assert circuit.lets_pass()
    circuit.failed()
    clock.now += 0.4
    assert not circuit.lets_pass()
    clock.now += 0.1
    assert circuit.lets_pass()
    circuit.worked()
    assert not circuit.is_failing
    assert circuit.lets_pass() and circuit.lets_pass()


def test_a_probe_that_never_says_is_followed_by_another() -> None:
    clock = Clock()
    circuit = Circuit(rest_seconds=0.5, probe_seconds=3.0, clock=clock)
    circuit.failed()
    clock.now += 0.5
    assert circuit.lets_pass()
    clock.now += 2.9
    assert not circuit.lets_pass()
    clock.now += 0.1
    assert circuit.lets_pass()
