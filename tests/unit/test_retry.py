"""When a failed attempt is made again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from models.enums import Outcome
from models.settings import RetryPolicy
from streams.domain.retry import LONGEST_WAIT, RetryDecision, backoff, decide

NOW = datetime(2026, 11, 23, tzinfo=UTC)
POLICY = RetryPolicy(max_attempts=3, base_seconds=2, ceiling_seconds=60)


def decided(outcome: Outcome, *, tries: int = 0, ambiguous: int = 0, retry_after: float | None = None) -> RetryDecision:
    return decide(
        outcome,
        policy=POLICY,
        tries=tries,
        ambiguous=ambiguous,
        retry_after=None if retry_after is None else timedelta(seconds=retry_after),
        now=NOW,
        random=lambda: 1.0,
    )


def test_waits_double_up_to_the_ceiling() -> None:
    assert [backoff(POLICY, tries, 1.0).total_seconds() for tries in (0, 1, 2, 5, 5000)] == [2, 4, 8, 60, 60]


def test_the_spread_takes_off_up_to_a_half() -> None:
    assert backoff(POLICY, 2, 0.0) == timedelta(seconds=4)


def test_a_longer_retry_after_wins_and_is_bounded() -> None:
    assert decided(Outcome.RETRY, retry_after=20).retry_at == NOW + timedelta(seconds=20)
    assert decided(Outcome.RETRY, retry_after=1).retry_at == NOW + timedelta(seconds=4)
    assert decided(Outcome.RETRY, retry_after=1e9).retry_at == NOW + LONGEST_WAIT
    assert decided(Outcome.RETRY, retry_after=-5).retry_at == NOW + timedelta(seconds=4)


def test_the_last_try_gives_up() -> None:
    assert decided(Outcome.RETRY, tries=1).retry_at is not None
    assert decided(Outcome.RETRY, tries=2) == RetryDecision(None, 3, 0)


@pytest.mark.parametrize("outcome", [Outcome.PERMANENT, Outcome.TARGET_DEAD])
def test_some_outcomes_are_final_at_once(outcome: Outcome) -> None:
    assert decided(outcome).retry_at is None


def test_an_unknown_outcome_is_repeated_once() -> None:
    assert decided(Outcome.AMBIGUOUS).ambiguous == 1
    assert decided(Outcome.AMBIGUOUS).retry_at is not None
    assert decided(Outcome.AMBIGUOUS, tries=1, ambiguous=1).retry_at is None
