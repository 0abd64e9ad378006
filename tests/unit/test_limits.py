"""What a limit means: shares of priorities, the local share, slots, and which limit holds for whom."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.enums import Channel, Priority
from models.limits import Limit, Scope
from streams.domain.limits import Bucket, Definitions, Rate, Slots, local_share, rate_of, slot_ends_at

NOW = datetime(2026, 1, 1, tzinfo=UTC)
RATES = st.builds(
    Rate,
    per_second=st.floats(0.001, 100_000, allow_nan=False),
    burst=st.integers(1, 100_000).map(float),
)
GAPS = st.lists(st.floats(0, 60, allow_nan=False), max_size=60)


def a_limit(scope: Scope, target: str, permits: int = 10, per_seconds: int = 1, burst: int = 10) -> Limit:
    return Limit(
        scope=scope,
        target=target,
        permits=permits,
        per_seconds=per_seconds,
        burst=burst,
        created_at=NOW,
        updated_at=NOW,
    )


def test_a_definition_is_a_rate_and_a_burst() -> None:
    assert rate_of(a_limit(Scope.USER, "*", permits=90, per_seconds=60, burst=7)) == Rate(1.5, 7.0)


@given(rate=RATES, gaps=GAPS, wanted=st.integers(1, 1000), priority=st.sampled_from(list(Priority)))
def test_a_bucket_never_gives_more_than_its_rate_and_burst(
    rate: Rate, gaps: list[float], wanted: int, priority: Priority
) -> None:
    """Over every window that ends at a take, not only over the whole."""
    now, taken = 1000.0, [(1000.0, 0)]
    bucket = Bucket.unknown(rate, now)
    for gap in gaps:
        now += gap
        bucket.fill(rate, now)
        granted = min(wanted, bucket.available(rate, priority))
        bucket.tokens -= granted
        taken.append((now, granted))
    for place, (since, _) in enumerate(taken):
        spent = sum(granted for _, granted in taken[place:])
        assert spent <= rate.burst + (now - since) * rate.per_second + 0.001


@given(rate=RATES)
def test_an_unknown_bucket_starts_with_a_second_of_its_rate_at_most(rate: Rate) -> None:
    assert Bucket.unknown(rate, 0.0).available(rate, Priority.HIGH) <= rate.per_second + 0.001


@given(rate=RATES, priority=st.sampled_from(list(Priority)), wanted=st.integers(1, 1000))
def test_after_the_wait_there_is_a_token(rate: Rate, priority: Priority, wanted: int) -> None:
    bucket = Bucket(0.0, 0.0)
    wait = bucket.wait_seconds(rate, priority, wanted)
    assert wait > 0
    bucket.fill(rate, wait)
    assert bucket.available(rate, priority) >= 1


@pytest.mark.parametrize(("priority", "most"), [(Priority.HIGH, 100), (Priority.NORMAL, 90), (Priority.LOW, 80)])
def test_lower_priorities_leave_the_last_of_a_bucket(priority: Priority, most: int) -> None:
    assert Bucket(100.0, 0.0).available(Rate(10.0, 100.0), priority) == most


@given(burst=st.integers(1, 1_000_000).map(float), priority=st.sampled_from(list(Priority)))
def test_a_full_bucket_has_something_for_everybody(burst: float, priority: Priority) -> None:
    assert Bucket(burst, 0.0).available(Rate(1.0, burst), priority) >= 1


def test_a_clock_that_goes_back_brings_nothing_and_takes_nothing() -> None:
    rate, bucket = Rate(10.0, 100.0), Bucket(5.0, 3600.0)
    bucket.fill(rate, 0.0)
    assert bucket.tokens == 5.0
    bucket.fill(rate, 1.0)
    assert bucket.tokens == 15.0


def test_thirds_of_a_token_become_a_token() -> None:
    rate, bucket = Rate(1.0, 10.0), Bucket(0.0, 0.0)
    for third in range(1, 4):
        bucket.fill(rate, third / 3)
    assert bucket.available(rate, Priority.HIGH) == 1


@given(rate=RATES, workers=st.integers(1, 100))
def test_all_local_shares_together_are_half_the_rate(rate: Rate, workers: int) -> None:
    local = local_share(rate, workers)
    assert local.per_second * workers == pytest.approx(rate.per_second / 2)
    assert local.burst >= 1.0


# -- slots of people


@given(rate=RATES, gaps=GAPS)
def test_slots_keep_the_pace_however_they_are_asked_for(rate: Rate, gaps: list[float]) -> None:
    now, slots = 1000.0, Slots(0.0)
    reserved = []
    for gap in gaps:
        now += gap
        reserved.append(now + slots.reserve(rate, now))
    assert reserved == sorted(reserved)
    for place, since in enumerate(reserved):
        for last in range(place, len(reserved)):
            in_window = last - place + 1
            assert in_window <= rate.burst + (reserved[last] - since) * rate.per_second + 1.001


def test_a_flood_gets_a_slot_each() -> None:
    slots, rate = Slots(0.0), Rate(2.0, 3.0)
    waits = [slots.reserve(rate, 100.0) for _ in range(20_000)]
    assert waits[:5] == [0.0, 0.0, 0.0, 0.5, 1.0]
    assert waits[-1] == pytest.approx((20_000 - 3) / 2)


@given(rate=RATES)
def test_the_first_request_of_an_unknown_person_passes(rate: Rate) -> None:
    slots = Slots.unknown(rate, 50.0)
    assert slots.reserve(rate, 50.0) == pytest.approx(0.0, abs=1e-6)


def test_a_throttled_request_comes_back_at_its_slot_or_its_end() -> None:
    assert slot_ends_at(NOW, None) == NOW
    assert slot_ends_at(NOW, NOW + timedelta(days=1)) == NOW
    assert slot_ends_at(NOW, NOW - timedelta(days=1)) == NOW - timedelta(days=1)


# -- which limit holds


def test_a_category_has_its_own_limit_or_that_of_all() -> None:
    own, every = a_limit(Scope.USER, "news"), a_limit(Scope.USER, "*", permits=5)
    both = Definitions.of([own, every])
    assert (both.for_user("news"), both.for_user("billing")) == (own, every)
    assert Definitions.of([own]).for_user("billing") is None
    assert Definitions().for_user("news") is None


def test_a_call_counts_against_its_channel_and_its_provider() -> None:
    email, smtp = a_limit(Scope.CHANNEL, "email"), a_limit(Scope.PROVIDER, "smtp")
    known = Definitions.of([email, smtp, a_limit(Scope.PROVIDER, "twilio"), a_limit(Scope.USER, "email")])
    assert known.shared(Channel.EMAIL, "smtp") == [email, smtp]
    assert known.shared(Channel.EMAIL, "sendgrid") == [email]
    assert known.shared(Channel.SMS, "sendgrid") == []
    assert len(known.all_shared()) == 3
