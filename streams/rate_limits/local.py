"""Counting alone, while Redis is away: every process uses half its share of each rate.

What is counted here stays when Redis comes back and goes again, so that an outage in many short pieces gives no more
than one long one. Slots are also noted while Redis is there: when it goes, or forgets, what it had reserved counts on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from uuid import UUID

from cachetools import LRUCache, TTLCache

from models.enums import Priority
from models.limits import Limit, Scope
from streams.domain.limits import Bucket, Rate, Slots, local_share, rate_of
from streams.rate_limits.scripts import Reservation, Slot, Taken

_PEOPLE = 50_000
_REQUESTS = 50_000
_REMEMBERED_SECONDS = 120.0

Person = tuple[str, str]


class LocalBuckets:
    """Token buckets of this process alone, and the holds it knows of."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[Scope, str], Bucket] = {}
        self._held_until: dict[str, float] = {}

    def held_seconds(self, provider: str) -> float:
        """What is left of a provider's hold, as far as this process knows."""
        return max(0.0, self._held_until.get(provider, 0.0) - self._clock())

    def hold(self, provider: str, seconds: float) -> None:
        """Notes a hold; of two the later end counts."""
        self._held_until[provider] = max(self._held_until.get(provider, 0.0), self._clock() + seconds)

    def take(self, limits: Sequence[Limit], priority: Priority, wanted: int, workers: int) -> Taken:
        """As many tokens as all of the limits' local shares have."""
        buckets = [self._filled(limit, workers) for limit in limits]
        granted = min([wanted, *(bucket.available(rate, priority) for bucket, rate in buckets)])
        for bucket, _ in buckets:
            bucket.tokens -= granted
        missing = wanted - granted
        waits = [bucket.wait_seconds(rate, priority, missing) for bucket, rate in buckets] if missing else []
        return Taken(granted, max(waits, default=0.0), is_held=False)

    def give_back(self, limits: Sequence[Limit], count: int, workers: int) -> None:
        """Puts tokens back that were not used."""
        for limit in limits:
            bucket, rate = self._filled(limit, workers)
            bucket.tokens = min(rate.burst, bucket.tokens + count)

    def _filled(self, limit: Limit, workers: int) -> tuple[Bucket, Rate]:
        rate, now = local_share(rate_of(limit), workers), self._clock()
        key = (limit.scope, limit.target)
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = Bucket.unknown(rate, now)
        bucket.fill(rate, now)
        return bucket, rate


class LocalSlots:
    """Slots of people as this process knows them."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._people: LRUCache[Person, Slots] = LRUCache(_PEOPLE)
        self._own: TTLCache[UUID, float] = TTLCache(_REQUESTS, _REMEMBERED_SECONDS, timer=clock)

    def taken_seconds(self, one: Reservation) -> float:
        """How far from now the person's slots are known to be taken."""
        known = self._people.get((one.user_id, one.category))
        return 0.0 if known is None else max(0.0, known.next_at - self._clock())

    def note(self, one: Reservation, slot: Slot, *, asked_at: float) -> None:
        """Remembers what Redis has reserved, as if it had answered when it was asked: never more than there is."""
        key, full_at = (one.user_id, one.category), asked_at + slot.full_in_seconds
        known = self._people.get(key)
        if known is None:
            self._people[key] = Slots(full_at)
        else:
            known.next_at = max(known.next_at, full_at)

    def reserve(self, one: Reservation, limit: Limit, workers: int) -> float:
        """The seconds until a slot of the local share; the same one when a request asks again."""
        now = self._clock()
        own = self._own.get(one.notification_id)
        if own is not None:
            return max(0.0, own - now)
        rate = local_share(rate_of(limit), workers)
        key = (one.user_id, one.category)
        slots = self._people.get(key)
        if slots is None:
            slots = self._people[key] = Slots.unknown(rate, now)
        wait = slots.reserve(rate, now)
        self._own[one.notification_id] = now + wait
        return wait
