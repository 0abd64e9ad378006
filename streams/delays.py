"""Records that are due later: which tier they enter, and what the headers say.

A record enters the largest tier that is not longer than what remains, and hops again until it is due. Its due time
travels in a header, so it survives restarts; it is never early, and late by less than the smallest tier and a hop.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from streams.records import Headers, Incoming, Outgoing
from streams.topics import CATALOGUE, TIERS, delay_topic

DUE_AT = "due-at"
RETURN_TOPIC = "return-topic"
#: What is due later than this waits in the database instead.
FAR = timedelta(hours=1)
#: A due time further away than this is a mistake.
LONGEST = timedelta(days=32)


class BadDelay(Exception):
    """A record on a delay topic whose headers make no sense; it belongs to the dead letters."""


def tier_for(remaining: timedelta) -> str:
    """The largest tier that is not longer than `remaining`; the smallest for less than a second."""
    fitting = [name for name, wait in TIERS.items() if wait <= remaining]
    return fitting[-1] if fitting else next(iter(TIERS))


def delayed(record: Outgoing, due_at: datetime, *, now: datetime) -> Outgoing:
    """The record as it goes to a delay topic; unchanged when it is due already."""
    if due_at <= now:
        return record
    headers = (*record.headers, (DUE_AT, _text(due_at)), (RETURN_TOPIC, record.topic.encode()))
    return Outgoing(delay_topic(tier_for(due_at - now)), record.key, record.value, headers)


def due(record: Incoming, *, now: datetime) -> tuple[datetime, str]:
    """When a record on a delay topic is due, and the topic it returns to.

    Raises:
        BadDelay: when a header is missing, undecodable, absurd, or names no topic of the catalogue, or one that
            takes no record of this size.
    """
    topic = record.header(RETURN_TOPIC)
    if topic not in CATALOGUE or topic.startswith("notification.delay."):
        raise BadDelay("return-topic names no topic of the service")
    if record.size_bytes > CATALOGUE[topic].max_bytes:
        raise BadDelay("is larger than its return-topic takes")
    try:
        due_at = datetime.fromisoformat(record.header(DUE_AT) or "")
        if due_at.tzinfo is None or due_at - now > LONGEST:
            raise ValueError
    except (ValueError, OverflowError):
        raise BadDelay("due-at is no time within 32 days") from None
    return due_at, topic


def onward(record: Incoming, topic: str, due_at: datetime, *, now: datetime) -> Outgoing:
    """The record's next hop: back to its topic when due, else into the tier that fits what remains."""
    headers: Headers = tuple(pair for pair in record.headers if pair[0] not in (DUE_AT, RETURN_TOPIC))
    return delayed(Outgoing(topic, record.key, record.value, headers), due_at, now=now)


def _text(moment: datetime) -> bytes:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z").encode()
