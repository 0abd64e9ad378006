"""The state of a provider: what holds it, what opens it again, and who may call meanwhile."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID, uuid4

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from models.enums import Outcome
from streams.channels.health import (
    AWAY_IN_A_ROW,
    LEAST_CALLS,
    MOST_CALLS,
    UNUSED_PROBE_SECONDS,
    WINDOW_SECONDS,
    Admission,
    Condition,
    Health,
    Offer,
)
from streams.providers.base import DeliveryResult, Reach


def result(
    outcome: Outcome, reach: Reach = Reach.ANSWERED, *, retry_after: float | None = None, reason: str = "r"
) -> DeliveryResult:
    wait = None if retry_after is None else timedelta(seconds=retry_after)
    return DeliveryResult(outcome=outcome, provider="p", reach=reach, retry_after=wait, reason=reason)


SENT = result(Outcome.SENT)
PERMANENT = result(Outcome.PERMANENT)
DEAD = result(Outcome.TARGET_DEAD)
ERROR = result(Outcome.RETRY)
RAISED = result(Outcome.RETRY, Reach.UNKNOWN)
REFUSED_CONNECTION = result(Outcome.RETRY, Reach.AWAY)
TIMEOUT = result(Outcome.AMBIGUOUS, Reach.AWAY)
BROKEN = result(Outcome.BROKEN, reason="401")
WAIT_20 = result(Outcome.RETRY, Reach.AWAY, retry_after=20, reason="429")
NOT_ASKED = result(Outcome.PERMANENT, Reach.NOT_ASKED)


def admitted(health: Health, now: float) -> Admission:
    admission = health.admit(now)
    assert admission is not None
    return admission


def call(health: Health, told: DeliveryResult, now: float, delivery_id: UUID | None = None) -> None:
    """One call from its admission to its result."""
    admission = admitted(health, now)
    if admission.probe is not None:
        assert health.begin(admission, now)
    health.note(admission, delivery_id or uuid4(), told, now)


def call_all(health: Health, told: Iterable[DeliveryResult], now: float) -> None:
    for each in told:
        call(health, each, now)


def held(told: DeliveryResult = BROKEN) -> Health:
    """Held at time 0."""
    health = Health(0.0)
    call_all(health, [told] * (1 if told in (BROKEN, WAIT_20) else AWAY_IN_A_ROW), 0.0)
    assert health.is_held
    return health


def test_a_new_one_takes_calls() -> None:
    health = Health(0.0)
    assert (health.condition, health.offer(0.0), health.phase(0.0)) == (Condition.CLOSED, Offer.CALLS, "closed")


@pytest.mark.parametrize(
    ("told", "condition", "seconds"),
    [
        ([BROKEN], Condition.BROKEN, 5),
        ([WAIT_20], Condition.THROTTLED, 20),
        ([result(Outcome.RETRY, retry_after=0.4)], Condition.THROTTLED, 0.4),
        ([REFUSED_CONNECTION] * AWAY_IN_A_ROW, Condition.UNREACHABLE, 1),
        ([TIMEOUT] * AWAY_IN_A_ROW, Condition.UNREACHABLE, 1),
        ([ERROR] * LEAST_CALLS, Condition.DEGRADED, 5),
        ([RAISED] * LEAST_CALLS, Condition.DEGRADED, 5),
        ([SENT] * 10 + [ERROR] * 40, Condition.DEGRADED, 5),
        # Answers in between break the row; four of five without one are an outage all the same.
        ([SENT, *[REFUSED_CONNECTION] * 4] * 10, Condition.UNREACHABLE, 1),
        # Half of each is neither an outage, nor health.
        ([ERROR, REFUSED_CONNECTION] * 25, Condition.DEGRADED, 5),
    ],
)
def test_trouble(told: list[DeliveryResult], condition: Condition, seconds: float) -> None:
    health = Health(0.0)
    call_all(health, told, 100.0)
    assert (health.condition, health.since, health.until) == (condition, 100.0, pytest.approx(100 + seconds))
    assert health.detail == told[-1].reason


@pytest.mark.parametrize(
    "told",
    [
        [REFUSED_CONNECTION] * (AWAY_IN_A_ROW - 1) + [SENT] + [REFUSED_CONNECTION] * (AWAY_IN_A_ROW - 1),
        [ERROR] * (LEAST_CALLS - 1),
        [SENT] * 11 + [ERROR] * 39,
        [PERMANENT, DEAD] * 100,
        [NOT_ASKED] * 500,
        [result(Outcome.RETRY, retry_after=0)],
    ],
)
def test_no_trouble(told: list[DeliveryResult]) -> None:
    health = Health(0.0)
    call_all(health, told, 0.0)
    assert health.condition is Condition.CLOSED


def test_failures_of_long_ago_are_forgotten() -> None:
    health = Health(0.0)
    call_all(health, [ERROR] * (LEAST_CALLS - 1), 0.0)
    call(health, ERROR, WINDOW_SECONDS + 0.1)
    assert health.condition is Condition.CLOSED
    call_all(health, [ERROR] * (LEAST_CALLS - 1), WINDOW_SECONDS + 0.2)
    assert health.condition is Condition.DEGRADED


def test_one_delivery_that_fails_again_and_again_says_nothing_of_the_provider() -> None:
    health, delivery_id = Health(0.0), uuid4()
    call_all(health, [SENT] * LEAST_CALLS, 0.0)
    for number in range(200):
        call(health, ERROR, number / 10, delivery_id)
    assert health.condition is Condition.CLOSED


def test_the_window_remembers_no_more_than_its_bound() -> None:
    health = Health(0.0)
    call_all(health, [SENT] * MOST_CALLS * 3, 0.0)
    call_all(health, [ERROR] * int(MOST_CALLS * 0.8), 0.0)
    assert health.condition is Condition.DEGRADED


@pytest.mark.parametrize(
    ("told", "waits"),
    [(BROKEN, [5, 10, 20, 40, 60, 60]), (TIMEOUT, [1, 2, 4, 8, 16, 30, 30])],
)
def test_each_probe_that_fails_doubles_the_wait(told: DeliveryResult, waits: list[float]) -> None:
    health, now, seen = held(told), 0.0, []
    for _ in waits:
        seen.append(health.until - now)
        now = health.until
        call(health, told, now)
    assert seen == waits
    assert health.since == 0.0


def test_a_success_begins_the_waits_anew() -> None:
    health = held()
    call(health, BROKEN, 5.0)
    call(health, SENT, 15.0)
    call(health, BROKEN, 16.0)
    assert health.until == 21.0


@pytest.mark.parametrize(
    ("told", "condition"),
    [
        (SENT, Condition.CLOSED),
        (PERMANENT, Condition.CLOSED),
        (DEAD, Condition.CLOSED),
        (BROKEN, Condition.BROKEN),
        (WAIT_20, Condition.THROTTLED),
        (TIMEOUT, Condition.UNREACHABLE),
        (REFUSED_CONNECTION, Condition.UNREACHABLE),
        (ERROR, Condition.DEGRADED),
        (RAISED, Condition.DEGRADED),
    ],
)
@pytest.mark.parametrize("before", [WAIT_20, TIMEOUT])
def test_the_verdict_of_a_probe(before: DeliveryResult, told: DeliveryResult, condition: Condition) -> None:
    health = held(before)
    call(health, told, health.until)
    assert health.condition is condition


def test_a_probe_that_asked_nobody_is_no_verdict() -> None:
    health = held()
    call(health, NOT_ASKED, 5.0)
    assert (health.condition, health.offer(5.0)) == (Condition.BROKEN, Offer.PROBE)


def test_nobody_calls_while_it_is_held() -> None:
    health = held()
    assert (health.offer(4.999), health.admit(4.999), health.phase(4.999)) == (Offer.NOTHING, None, "held")
    assert (health.offer(5.0), health.phase(5.0)) == (Offer.PROBE, "half-open")


def test_one_probe_at_a_time() -> None:
    health = held()
    first = admitted(health, 5.0)
    assert [health.admit(5.0) for _ in range(3)] == [None] * 3
    health.give_back(first)
    second = admitted(health, 5.0)
    assert not health.begin(first, 5.0)
    health.give_back(first)
    assert health.admit(5.0) is None
    assert health.begin(second, 5.0)


def test_a_probe_that_is_never_made_frees_its_place_and_may_not_be_made_later() -> None:
    health = held()
    lost = admitted(health, 5.0)
    assert health.asks_again_at(6.0) == 5.0 + UNUSED_PROBE_SECONDS
    later = 5.0 + UNUSED_PROBE_SECONDS
    second = admitted(health, later)
    assert not health.begin(lost, later)
    assert health.begin(second, later)


def test_a_probe_on_its_way_keeps_its_place_however_long_it_takes() -> None:
    health = held()
    assert health.begin(admitted(health, 5.0), 5.0)
    assert health.admit(1e6) is None
    assert health.asks_again_at(1e6) == 1e6 + UNUSED_PROBE_SECONDS


@pytest.mark.parametrize("told", [SENT, BROKEN, TIMEOUT, ERROR])
def test_calls_of_before_change_nothing(told: DeliveryResult) -> None:
    health = Health(0.0)
    old = admitted(health, 0.0)
    call(health, BROKEN, 1.0)
    before = health.snapshot()
    for _ in range(300):
        health.note(old, uuid4(), told, 2.0)
    assert health.snapshot() == before
    call(health, SENT, 6.0)
    for _ in range(300):
        health.note(old, uuid4(), told, 7.0)
    assert health.condition is Condition.CLOSED


def test_a_retry_after_counts_whoever_brings_it_and_never_shortens() -> None:
    health = Health(0.0)
    old = admitted(health, 0.0)
    call(health, WAIT_20, 1.0)
    health.note(old, uuid4(), result(Outcome.RETRY, retry_after=5), 2.0)
    assert health.until == 21.0
    health.note(old, uuid4(), WAIT_20, 2.0)
    assert health.until == 22.0
    call(health, SENT, 22.0)
    health.note(old, uuid4(), WAIT_20, 23.0)
    assert (health.condition, health.until) == (Condition.THROTTLED, 43.0)


def test_a_wait_asked_of_a_broken_one_keeps_it_broken() -> None:
    health = Health(0.0)
    old = admitted(health, 0.0)
    call(health, BROKEN, 0.0)
    health.note(old, uuid4(), WAIT_20, 1.0)
    assert (health.condition, health.since, health.until) == (Condition.BROKEN, 0.0, 21.0)


def test_a_probe_under_way_does_not_open_what_was_asked_to_wait_meanwhile() -> None:
    health = Health(0.0)
    old = admitted(health, 0.0)
    call(health, BROKEN, 0.0)
    probe = admitted(health, 5.0)
    assert health.begin(probe, 5.0)
    health.note(old, uuid4(), WAIT_20, 6.0)
    health.note(probe, uuid4(), SENT, 7.0)
    assert (health.until, health.admit(25.9)) == (26.0, None)


def degraded() -> Health:
    health = Health(0.0)
    call_all(health, [ERROR] * LEAST_CALLS, 0.0)
    return health


def test_a_degraded_one_is_a_last_resort_with_a_probe_now_and_then() -> None:
    health = degraded()
    assert (health.offer(1.0), health.phase(1.0)) == (Offer.LAST_RESORT, "degraded")
    assert health.admit(1.0, as_last_resort=False) is None
    assert health.admit(1.0) is not None
    assert health.offer(5.0) is Offer.PROBE
    probe = admitted(health, 5.0)
    assert health.offer(5.0) is Offer.LAST_RESORT
    assert health.begin(probe, 5.0)
    health.note(probe, uuid4(), SENT, 5.0)
    assert health.condition is Condition.CLOSED


def test_a_degraded_one_that_is_called_all_the_same_recovers_by_its_calls() -> None:
    health = degraded()
    call_all(health, [ERROR] * 5 + [SENT] * 5, 1.0)
    assert health.condition is Condition.DEGRADED
    call(health, SENT, 1.0)
    assert health.condition is Condition.CLOSED


@pytest.mark.parametrize(
    ("told", "condition", "until"),
    [
        ([BROKEN], Condition.BROKEN, 6.0),
        ([TIMEOUT] * AWAY_IN_A_ROW, Condition.UNREACHABLE, 2.0),
        ([WAIT_20], Condition.THROTTLED, 21.0),
    ],
)
def test_a_degraded_one_can_fall_further(told: list[DeliveryResult], condition: Condition, until: float) -> None:
    health = degraded()
    call_all(health, told, 1.0)
    assert (health.condition, health.until) == (condition, until)


class Provider(RuleBasedStateMachine):
    """Any interleaving of askers, calls and results: the promises hold."""

    calls = Bundle("calls")
    probes = Bundle("probes")

    @initialize()
    def begin(self) -> None:
        self.health = Health(0.0)
        self.now = 0.0
        self.asked_until = 0.0
        self.probes_out: set[int] = set()

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, 5.0, 20.0, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(target=calls)
    def ask(self) -> Admission | None:
        was_open = not self.health.is_held
        admission = self.health.admit(self.now)
        if admission is not None:
            assert self.now >= self.asked_until
            assert was_open or admission.probe is not None
            if admission.probe is not None:
                if not self.health.begin(admission, self.now):
                    raise AssertionError("a probe just admitted may be made")
                assert not self.probes_out, "two probes at a time"
                self.probes_out.add(admission.probe)
        return admission

    @rule(admission=consumes(calls))
    def let_go(self, admission: Admission | None) -> None:
        if admission is not None:
            self.health.give_back(admission)
            self.probes_out.discard(admission.probe or 0)

    @rule(
        admission=consumes(calls),
        told=st.sampled_from([SENT, PERMANENT, ERROR, RAISED, TIMEOUT, REFUSED_CONNECTION, BROKEN, NOT_ASKED, WAIT_20]),
        times=st.sampled_from([1, 12, 60]),
    )
    def answer(self, admission: Admission | None, told: DeliveryResult, times: int) -> None:
        if admission is None:
            return
        before = self.health.snapshot()
        is_probe = admission.probe is not None and admission.epoch == self.health._epoch
        self.probes_out.discard(admission.probe or 0)
        for _ in range(1 if admission.probe is not None else times):
            self.health.note(admission, uuid4(), told, self.now)
        if told is WAIT_20:
            self.asked_until = max(self.asked_until, self.now + 20)
        elif is_probe and told in (SENT, PERMANENT):
            assert self.health.condition is Condition.CLOSED
        elif before.condition in (Condition.BROKEN, Condition.THROTTLED, Condition.UNREACHABLE) and not is_probe:
            after = self.health.snapshot()
            assert (after.condition, after.until) == (before.condition, before.until)

    @invariant()
    def nobody_is_offered_what_was_asked_to_wait(self) -> None:
        if self.now < self.asked_until:
            assert self.health.offer(self.now) is Offer.NOTHING

    @invariant()
    def it_always_opens_again(self) -> None:
        again = self.health.asks_again_at(self.now)
        assert again <= max(self.now + 60, self.asked_until)


TestProvider = Provider.TestCase
TestProvider.settings = hypothesis_settings(max_examples=150, stateful_step_count=40, deadline=None)
