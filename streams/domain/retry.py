"""Whether and when a failed attempt is made again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from models.enums import Outcome
from models.settings import RetryPolicy

#: A vendor's Retry-After is honoured up to this.
LONGEST_WAIT = timedelta(hours=24)
#: A send whose outcome is unknown is repeated this often, then given up.
AMBIGUOUS_REPEATS = 1


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """What follows an attempt that did not send: another one at `retry_at`, or none."""

    #: When the next attempt is due; None means give up.
    retry_at: datetime | None
    #: Attempts that have counted towards the maximum.
    tries: int
    #: Attempts whose outcome nobody knows.
    ambiguous: int


def decide(
    outcome: Outcome,
    *,
    policy: RetryPolicy,
    tries: int,
    ambiguous: int,
    retry_after: timedelta | None,
    now: datetime,
    random: Callable[[], float],
) -> RetryDecision:
    """Decides about an attempt that ended with `outcome`, the `tries`-th so far not counting itself.

    `broken` is not decided here: nobody was to blame but the account, so no attempt was made.
    `random` gives a number in [0, 1): the spread keeps deliveries that failed together from coming back together.
    """
    tries += 1
    if outcome is Outcome.AMBIGUOUS:
        ambiguous += 1
    given_up = (
        outcome not in (Outcome.RETRY, Outcome.AMBIGUOUS)
        or tries >= policy.max_attempts
        or ambiguous > AMBIGUOUS_REPEATS
    )
    if given_up:
        return RetryDecision(None, tries, ambiguous)
    wait = max(backoff(policy, tries, random()), _bounded(retry_after))
    return RetryDecision(now + wait, tries, ambiguous)


def backoff(policy: RetryPolicy, tries: int, spread: float) -> timedelta:
    """`min(ceiling, base × 2**tries) × (0.5 + spread / 2)`."""
    exponential = policy.base_seconds * 2.0 ** min(tries, 64)
    return timedelta(seconds=min(policy.ceiling_seconds, exponential) * (0.5 + spread / 2))


def _bounded(retry_after: timedelta | None) -> timedelta:
    return min(max(retry_after or timedelta(), timedelta()), LONGEST_WAIT)
