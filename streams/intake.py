"""Taking a request in over HTTP: the row first, then Kafka, else the outbox (CONTRACT section 3, "Accept").

What is answered with 202 is in Postgres, so it is found by `GET`, and either on its topic or in the outbox beside the
row, so it ends in a final state whatever is killed next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol
from uuid import UUID

import orjson
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from models import ids
from models.enums import Priority, Status
from models.errors import Conflict, Refused, Unavailable
from models.repositories import notifications, outbox
from models.repositories.notifications import Known
from models.requests import MAX_REQUEST_BYTES, NotificationRequest
from models.settings import Settings
from streams.errors import is_passing
from streams.gathering import Gathering
from streams.records import CONTENT_TYPE, Outgoing
from streams.topics import request_topic

log = structlog.get_logger()


class Publishes(Protocol):
    """The part of the producer that an intake needs."""

    def send_all(self, records: Sequence[Outgoing]) -> Awaitable[list[tuple[int, int]]]:
        """Writes records and waits for acks=all."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that will end in a final state."""

    notification_id: UUID
    status: Status
    created_at: datetime
    #: Whether Kafka was away, so that the outbox has it.
    queued_in_outbox: bool = False


class Intake:
    """Accepts requests. One per process; safe for many concurrent calls."""

    def __init__(self, *, engine: AsyncEngine, publisher: Publishes, settings: Settings) -> None:
        self._engine = engine
        self._publisher = publisher
        self._deadline = settings.accept_deadline_seconds
        self._rows: Gathering[notifications.NewNotification, Known] = Gathering(self._store)

    async def accept(
        self,
        request: NotificationRequest,
        *,
        client: str,
        priority: Priority,
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> Accepted:
        """Makes a request durable.

        Raises:
            Refused: the request is too large for its topic.
            Conflict: the id is taken by a request with another body.
            Unavailable: it could not be made durable; `notification_id` tells the id. The outcome is unknown: a
                repeat with the same key is safe.
        """
        notification_id = request_id(request, client)
        try:
            return await self._accept(request, notification_id, client, priority, headers)
        except Exception as error:
            if not is_passing(error):
                raise
            raise NotAccepted(notification_id) from error

    async def _accept(
        self,
        request: NotificationRequest,
        notification_id: UUID,
        client: str,
        priority: Priority,
        headers: tuple[tuple[str, bytes | None], ...],
    ) -> Accepted:
        fingerprint = request.fingerprint()
        value = request.record_value(notification_id)
        if len(value) > MAX_REQUEST_BYTES:  # larger than the body was: 1e15 has four characters, its float eighteen
            raise Refused("body", f"is larger than {MAX_REQUEST_BYTES} bytes when its numbers are written out")
        row = new_notification(request, notification_id, client=client, priority=priority, fingerprint=fingerprint)
        state = await self._rows.add(row)
        if state.fingerprint is not None and state.fingerprint != fingerprint:
            raise Conflict("id", "is taken by a request with another body")
        if state.status is not Status.ACCEPTED:
            return Accepted(notification_id, state.status, state.created_at)
        record = Outgoing(
            request_topic(priority),
            request.user_id.encode(),
            value,
            (CONTENT_TYPE, ("client-id", client.encode()), *headers),
        )
        in_outbox = await self._publish(record)
        return Accepted(notification_id, Status.ACCEPTED, state.created_at, in_outbox)

    async def _store(self, rows: Sequence[notifications.NewNotification]) -> list[Known]:
        """One transaction for all that came while the last one was written."""
        first = {row.id: row for row in reversed(rows)}
        async with self._engine.begin() as connection:
            known = await notifications.accept(connection, list(first.values()))
        return [known[row.id] for row in rows]

    async def _publish(self, record: Outgoing) -> bool:
        """Kafka within the deadline, else the outbox; whether it was the outbox."""
        try:
            await asyncio.wait_for(self._publisher.send_all([record]), timeout=self._deadline)
        except (TimeoutError, Unavailable):
            log.warning("kafka away or slow: the outbox takes over")
            async with self._engine.begin() as connection:
                await outbox.queue(connection, [waiting(record)])
            return True
        return False


class NotAccepted(Unavailable):
    """A request that could not be made durable."""

    def __init__(self, notification_id: UUID) -> None:
        super().__init__("storage", "the request could not be stored; repeat it with the same key")
        self.notification_id = notification_id


def request_id(request: NotificationRequest, client: str) -> UUID:
    """The client's id, else one from its idempotency key, else a new one."""
    if request.id is not None:
        return request.id
    if request.idempotency_key is not None:
        return ids.from_idempotency_key(client, request.idempotency_key)
    return ids.fresh()


def new_notification(
    request: NotificationRequest, notification_id: UUID, *, client: str, priority: Priority, fingerprint: bytes
) -> notifications.NewNotification:
    """The row of a request that is seen for the first time."""
    return notifications.NewNotification(
        id=notification_id,
        user_id=request.user_id,
        client=client,
        fingerprint=fingerprint,
        category=request.category,
        priority=priority,
        extra=orjson.dumps(request.metadata).decode(),
        send_at=request.send_at,
        expires_at=request.expires_at,
    )


def waiting(record: Outgoing) -> outbox.Waiting:
    """A record as the outbox keeps it."""
    headers = {name: value.decode() for name, value in record.headers if value is not None}
    return outbox.Waiting(
        topic=record.topic,
        key=record.key or b"",
        value=record.value or b"",
        headers=orjson.dumps(headers).decode(),
    )


def scheduled(record: Outgoing, known_as: UUID, due_at: datetime) -> outbox.Scheduled:
    """A record as the schedules keep it; keeping it twice under one id is harmless."""
    kept = waiting(record)
    return outbox.Scheduled(
        id=known_as, due_at=due_at, topic=kept.topic, key=kept.key, value=kept.value, headers=kept.headers
    )
