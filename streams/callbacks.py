"""Taking providers' callbacks in: verified, read, and each event told once to `provider.events`.

What an event means is decided by the lane of that topic. Repeats that come soon are dropped here, which saves work; the
lane drops the rest, so what this process forgets does no harm.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import structlog

from models.errors import Refused
from models.provider_events import ProviderEvent
from streams.producer import TooLarge
from streams.providers.callbacks import Callback, CallbackSource, NotVerified
from streams.records import CONTENT_TYPE, Headers, Outgoing
from streams.topics import PROVIDER_EVENTS

log = structlog.get_logger()

#: So many at a time, as each step has a deadline.
_MOST_AT_ONCE = 500
#: Vendors repeat at once and after minutes; what comes later is the lane's to drop.
_REMEMBERED_SECONDS = 900.0
_REMEMBERED = 200_000
#: What code meets in values that are not what it expects of a vendor.
_ODD = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class Publishes(Protocol):
    """The part of the intake that this needs."""

    def publish(self, records: Sequence[Outgoing]) -> Awaitable[bool]:
        """Makes records durable; raises Unavailable or TimeoutError."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one callback."""

    #: Events that are durable now.
    events: int
    #: Events that were known already.
    repeats: int


class Recent:
    """Ids of the last minutes, up to a bound; the oldest are forgotten first."""

    def __init__(
        self,
        *,
        seconds: float = _REMEMBERED_SECONDS,
        most: int = _REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._most = most
        self._clock = clock
        self._until: OrderedDict[str, float] = OrderedDict()

    def __contains__(self, known: str) -> bool:
        until = self._until.get(known)
        return until is not None and self._clock() < until

    def add(self, ids: Iterable[str]) -> None:
        """Remembers these from now on."""
        until = self._clock() + self._seconds
        for known in ids:
            self._until[known] = until
            self._until.move_to_end(known)
        while len(self._until) > self._most:
            self._until.popitem(last=False)


class Callbacks:
    """The callbacks of all vendors that are configured. One per process; safe for many at a time."""

    def __init__(
        self, sources: Mapping[str, CallbackSource], *, publisher: Publishes, recent: Recent | None = None
    ) -> None:
        self._sources = sources
        self._publisher = publisher
        self._recent = recent or Recent()

    def __contains__(self, name: str) -> bool:
        """Whether this vendor's callbacks are configured."""
        return name in self._sources

    async def open(self) -> None:
        """Prepares all sources."""
        for source in self._sources.values():
            await source.open()

    async def close(self) -> None:
        """Lets go of what they hold."""
        for source in self._sources.values():
            await source.close()

    async def take(self, name: str, callback: Callback, *, headers: Headers = ()) -> Taken:
        """Makes what the callback tells durable. `headers` travel on with its records.

        Raises:
            NotVerified: the vendor did not sign it for us, or not lately (Stale).
            Refused: signed, but not what the vendor sends.
            Unavailable, TimeoutError: it can't be verified or made durable now. The vendor will repeat it.
        """
        source = self._sources[name]
        await _verify(source, callback)
        events = await _parse(source, callback)
        fresh = {event.event_id: event for event in reversed(events) if event.event_id not in self._recent}
        await self._publish([event for event in events if fresh.get(event.event_id) is event], headers)
        return Taken(events=len(fresh), repeats=len(events) - len(fresh))

    async def _publish(self, events: Sequence[ProviderEvent], headers: Headers) -> None:
        for first in range(0, len(events), _MOST_AT_ONCE):
            chunk = events[first : first + _MOST_AT_ONCE]
            try:
                await self._publisher.publish([_record(event, headers) for event in chunk])
            except TooLarge:
                raise Refused("body", "holds an event that is too large") from None
            self._recent.add(event.event_id for event in chunk)


def _record(event: ProviderEvent, headers: Headers) -> Outgoing:
    return Outgoing(PROVIDER_EVENTS, event.key, event.record_value(), (CONTENT_TYPE, *headers))


async def _verify(source: CallbackSource, callback: Callback) -> None:
    try:
        await source.verify(callback)
    except _ODD as error:
        log.warning("callback could not be verified", provider=source.name, error=type(error).__name__)
        raise NotVerified("can't be read") from None


async def _parse(source: CallbackSource, callback: Callback) -> list[ProviderEvent]:
    """What nobody foresaw is refused, not failed at: a 500 would be repeated for a day."""
    try:
        return await source.parse_events(callback)
    except _ODD as error:
        log.warning("callback could not be read", provider=source.name, error=type(error).__name__)
        raise Refused("body", "is not what this provider sends") from None
