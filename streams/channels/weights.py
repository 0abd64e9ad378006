"""Sharing a channel's traffic among the providers that work: by weight, shifted by what their last calls were like.

    share ~ weight x (part of the calls that went well) ** 3 x (how slow it is, next to the fastest)

No provider with a weight falls below a twentieth of it, so that one that is well again is found out. What calls told
fades with time: half of it is forgotten in HALF_LIFE_SECONDS, and without evidence a provider counts as good. Whether a
provider may be called at all is not decided here, but by its health.

Times are seconds of a monotonic clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from models.enums import Outcome

HALF_LIFE_SECONDS = 20.0
#: 10 % failures cost 27 % of the share, 50 % cost 88 %.
SHARPNESS = 3
#: So many calls that went well are assumed of everybody, so that one failure of a quiet hour says little.
ASSUMED_CALLS = 10.0
#: Vendors differ: up to so many times the fastest one's time costs nothing.
TOLERATED_SLOWNESS = 2.0
#: Below this all are alike.
LEAST_SECONDS = 0.05
#: Of its weight, whatever happened.
FLOOR = 0.05

_GOOD = frozenset({Outcome.SENT})
_BAD = frozenset({Outcome.RETRY, Outcome.AMBIGUOUS, Outcome.BROKEN})
#: These took as long as the provider takes; a quick no doesn't make it fast.
_TIMED = frozenset({Outcome.SENT, Outcome.AMBIGUOUS})
#: Against sums that are a hair above a whole number.
_HAIR = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is known of a provider now."""

    weight: float
    #: Share of its calls that went well.
    success: float = 1.0
    #: The mean time of its calls, and how many calls of now that is worth.
    seconds: float = 0.0
    timed_calls: float = 0.0


class Track:
    """What a provider's calls told lately."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._at = clock()
        self._good = self._bad = self._timed = self._seconds = 0.0

    def note(self, outcome: Outcome, seconds: float) -> None:
        """A call that was made. What is final about its message says nothing of the provider."""
        self._fade()
        self._good += outcome in _GOOD
        self._bad += outcome in _BAD
        if outcome in _TIMED:
            self._timed += 1
            self._seconds += seconds

    def standing(self, weight: float) -> Standing:
        """What it amounts to now."""
        self._fade()
        calls = self._good + self._bad
        return Standing(
            weight=weight,
            success=(self._good + ASSUMED_CALLS) / (calls + ASSUMED_CALLS),
            seconds=self._seconds / self._timed if self._timed else 0.0,
            timed_calls=self._timed,
        )

    def _fade(self) -> None:
        now = self._clock()
        rest = 0.5 ** ((now - self._at) / HALF_LIFE_SECONDS)
        self._at = now
        self._good *= rest
        self._bad *= rest
        self._timed *= rest
        self._seconds *= rest


def effective(standings: Mapping[str, Standing]) -> dict[str, float]:
    """The share of each, by name; together 1. The weights must not all be 0."""
    fastest = min((_slowness(each) for each in standings.values() if each.timed_calls >= 1), default=LEAST_SECONDS)
    weights = {
        name: each.weight * max(FLOOR, each.success**SHARPNESS * _pace(each, fastest))
        for name, each in standings.items()
    }
    total = sum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _slowness(standing: Standing) -> float:
    return max(LEAST_SECONDS, standing.seconds)


def _pace(standing: Standing, fastest: float) -> float:
    """1 for who is fast enough, a half for who is twice as slow as that; few calls prove little."""
    calls = standing.timed_calls
    seconds = (_slowness(standing) * calls + fastest * ASSUMED_CALLS) / (calls + ASSUMED_CALLS)
    return min(1.0, TOLERATED_SLOWNESS * fastest / seconds)


class Shares:
    """Deals calls out by shares: a weighted round robin in which each is owed what it did not get yet.

    No dice: after any number of calls nobody is further from its share than one turn. A turn is dealt to one provider,
    at most as many calls as it is owed by then; so the share is one of calls, not of turns.
    """

    def __init__(self) -> None:
        self._owed: dict[str, float] = {}

    def deal(self, shares: Mapping[str, float], wanted: int) -> tuple[str, int]:
        """Whose turn it is, and for how many calls. `shares` together are 1."""
        if self._owed.keys() != shares.keys():  # what is owed to who was away is not made up for in one go
            self._owed = dict.fromkeys(shares, 0.0)
        due = {name: self._owed[name] + wanted * share for name, share in shares.items()}
        chosen = max(due, key=due.__getitem__)
        calls = min(wanted, max(1, math.ceil(due[chosen] - _HAIR)))
        for name, share in shares.items():
            self._owed[name] += calls * share
        self._owed[chosen] -= calls
        return chosen, calls
