"""What a limit means: which one holds for whom, what a priority may take, when the next slot is.

`token_bucket.lua` and `user_slots.lua` do the same sums where the buckets are shared; tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from models.enums import Channel, Priority
from models.limits import ANY_CATEGORY, Limit, Scope

#: The part of a shared bucket that a priority leaves to those above it.
LEFT_TO_HIGHER = {Priority.HIGH: 0.0, Priority.NORMAL: 0.1, Priority.LOW: 0.2}
#: Sums of floats miss whole numbers by less than this.
DRIFT = 1e-6
#: Tokens come in portions of at least this long, so that a fast bucket isn't asked for each single one.
PORTION_SECONDS = 0.02
#: No slot is further away: at one a month a flood would reach beyond the calendar.
FURTHEST_SECONDS = 10 * 365 * 86_400.0


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit in numbers: permits a second, and how many may pass at once."""

    per_second: float
    burst: float

    @property
    def first_tokens(self) -> float:
        """What a bucket starts with that nobody knows: one second of its rate, for it may have been emptied."""
        return min(self.burst, self.per_second)

    def left_to_higher(self, priority: Priority) -> float:
        """Tokens that this priority leaves in a shared bucket; never so many that none could be taken at all."""
        return max(0.0, min(LEFT_TO_HIGHER[priority] * self.burst, self.burst - 1))


def rate_of(limit: Limit) -> Rate:
    """The rate of a definition."""
    return Rate(limit.per_second, float(limit.burst))


def local_share(rate: Rate, workers: int) -> Rate:
    """What one of so many processes uses when they can't count together: half its share.

    Half, because nobody knows how many there really are. A bucket holds at least one token, else it could give none.
    """
    return Rate(rate.per_second / (2 * workers), max(1.0, rate.burst / (2 * workers)))


@dataclass(slots=True)
class Bucket:
    """A token bucket in this process. Times are seconds of a clock that only goes forward."""

    tokens: float
    filled_at: float

    @classmethod
    def unknown(cls, rate: Rate, now: float) -> Bucket:
        """One that nobody has seen yet."""
        return cls(rate.first_tokens, now)

    def fill(self, rate: Rate, now: float) -> None:
        """Adds what has come since it was looked at last."""
        come = max(0.0, now - self.filled_at) * rate.per_second
        self.tokens = min(rate.burst, self.tokens + come)
        self.filled_at = now

    def available(self, rate: Rate, priority: Priority) -> int:
        """Whole tokens that this priority may take."""
        return max(0, math.floor(self.tokens - rate.left_to_higher(priority) + DRIFT))

    def wait_seconds(self, rate: Rate, priority: Priority, wanted: int) -> float:
        """Until asking again is worthwhile: for the first token, and not for less than a portion."""
        missing = rate.left_to_higher(priority) - self.tokens
        first, all_of_them = (missing + 1) / rate.per_second, (missing + wanted) / rate.per_second
        return max(0.0, first, min(all_of_them, PORTION_SECONDS))


@dataclass(slots=True)
class Slots:
    """The slots of one person under one limit, one behind the other.

    `next_at` is the theoretical arrival time of the generic cell rate algorithm (ITU-T I.371): when the bucket would
    be full again. Reserving moves it on, so that any number of requests get as many slots at the limit's pace.
    """

    next_at: float

    @classmethod
    def unknown(cls, rate: Rate, now: float) -> Slots:
        """Of a person that was not seen yet: the first request passes, and a second of the rate with it."""
        return cls(now + (rate.burst - max(1.0, rate.first_tokens)) / rate.per_second)

    def reserve(self, rate: Rate, now: float) -> float:
        """Takes the next slot; returns the seconds until it."""
        self.next_at = max(self.next_at, now) + 1 / rate.per_second
        return max(0.0, self.next_at - now - rate.burst / rate.per_second)


@dataclass(frozen=True, slots=True)
class Definitions:
    """All limits, found by what they hold for."""

    users: Mapping[str, Limit] = field(default_factory=dict)
    channels: Mapping[str, Limit] = field(default_factory=dict)
    providers: Mapping[str, Limit] = field(default_factory=dict)

    @classmethod
    def of(cls, limits: Iterable[Limit]) -> Definitions:
        """Sorted by scope and target."""
        found: dict[Scope, dict[str, Limit]] = {scope: {} for scope in Scope}
        for limit in limits:
            found[limit.scope][limit.target] = limit
        return cls(found[Scope.USER], found[Scope.CHANNEL], found[Scope.PROVIDER])

    def for_user(self, category: str) -> Limit | None:
        """What one person may get of a category: its own limit, else that of every category."""
        return self.users.get(category) or self.users.get(ANY_CATEGORY)

    def shared(self, channel: Channel, provider: str) -> list[Limit]:
        """What a call by this provider counts against."""
        found = (self.channels.get(channel), self.providers.get(provider))
        return [limit for limit in found if limit is not None]

    def all_shared(self) -> list[Limit]:
        """Every limit that has one bucket."""
        return [*self.channels.values(), *self.providers.values()]


def slot_ends_at(slot_at: datetime, expires_at: datetime | None) -> datetime:
    """When a throttled request comes back: at its slot, or at its end if that is sooner, to be told then."""
    return slot_at if expires_at is None else min(slot_at, expires_at)
