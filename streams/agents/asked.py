"""A request as a lane reads it: decoded, named, and what its headers say of its way so far."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import NamedTuple
from uuid import UUID

from models import ids
from models.errors import Refused
from models.requests import MAX_REQUEST_BYTES, NotificationRequest, parse
from streams.domain.replays import Again, said_generation
from streams.records import Incoming

#: The id of a postponed request that brought none, for its way back.
KNOWN_AS = "notification-id"
#: When the slot is that a throttled request has reserved, for its way back: it is not limited again.
SLOT_AT = "slot-at"
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Asked(NamedTuple):
    """A request that could be read, and what it is called."""

    record: Incoming
    request: NotificationRequest
    notification_id: UUID
    client: str
    fingerprint: bytes
    #: The slot that it reserved when it was throttled.
    slot_at: datetime | None = None
    #: Which replay from the dead letters it says it is; 0 for none.
    replay: int = 0
    #: What is to be planned anew for that replay.
    again: Again | None = None

    def does_more_than(self, same: Asked) -> bool:
        """Whether this one of two repeats may do something that the other may not."""
        return (self.slot_at is not None, self.replay) > (same.slot_at is not None, same.replay)


def ask(record: Incoming, *, cluster_id: str) -> Asked:
    """Decodes a record of a request topic.

    Raises:
        Refused: what it can't be, and where.
    """
    if record.value is None:
        raise Refused("body", "is empty")
    if len(record.value) > MAX_REQUEST_BYTES:
        raise Refused("body", f"is larger than {MAX_REQUEST_BYTES} bytes")
    request = parse(NotificationRequest, record.value)
    client = (record.header("client-id") or "kafka").replace("\x00", "")[:255]
    return Asked(
        record=record,
        request=request,
        notification_id=_id(record, request, client, cluster_id),
        client=client,
        fingerprint=request.fingerprint(),
        slot_at=_time(record.header(SLOT_AT)),
        replay=said_generation(record),
    )


def _id(record: Incoming, request: NotificationRequest, client: str, cluster_id: str) -> UUID:
    if request.id is not None:
        return request.id
    known_as = record.header(KNOWN_AS)
    if known_as is not None and _UUID.fullmatch(known_as):
        return UUID(known_as)
    if request.idempotency_key is not None:
        return ids.from_idempotency_key(client, request.idempotency_key)
    return ids.from_record(cluster_id, record.topic, record.partition, record.offset, record.timestamp_ms)


def _time(text: str | None) -> datetime | None:
    """A time that stands in a header; None for what is none, or has no offset, or no calendar has in UTC."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text)
        return found.astimezone(UTC) if found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None
