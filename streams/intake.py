"""Taking a request in over HTTP (CONTRACT section 3, "Accept").

The row first, then Kafka, else the outbox: what is answered with 202 is in Postgres, so it is found by `GET`, and
either on its topic or in the outbox beside the row, so it ends in a final state whatever is killed next.

Without Postgres: a marker in Redis first, by which it is found, then Kafka; its lane writes the row. What has only one
of the two is not accepted. Each step has a deadline, and a server that missed one is then asked by one caller at a
time, so that an answer takes seconds at most, whatever hangs.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, Protocol, TypeVar
from uuid import UUID

import orjson
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from models import ids
from models.circuit import Circuit
from models.enums import Priority, Status
from models.errors import Conflict, Refused, Unavailable
from models.repositories import notifications, outbox
from models.repositories.notifications import Known
from models.requests import MAX_REQUEST_BYTES, NotificationRequest
from models.settings import Settings
from models.status import RANK
from streams.clock import now
from streams.deadline import Deadline
from streams.errors import is_passing
from streams.gathering import Gathering
from streams.markers import Marker, Markers
from streams.records import CONTENT_TYPE, Outgoing
from streams.together import Together
from streams.topics import request_topic

log = structlog.get_logger()

#: What a row waits for others to be written with it, while several come at a time.
_COMPANY_SECONDS = 0.01

Item = TypeVar("Item")
Answer = TypeVar("Answer")


class Publishes(Protocol):
    """The part of the producer that an intake needs."""

    def send_all(self, records: Sequence[Outgoing]) -> Awaitable[list[tuple[int, int]]]:
        """Writes records and waits for acks=all."""


class Accepted(NamedTuple):
    """A request that will end in a final state."""

    notification_id: UUID
    status: Status
    created_at: datetime
    #: Whether Kafka was away, so that the outbox has it.
    queued_in_outbox: bool = False
    #: Whether Postgres was away, so that a marker stands for its row.
    is_marked: bool = False


class _Arrival(NamedTuple):
    """A request on its way in: the row that it is to have, and its record."""

    row: notifications.NewNotification
    record: Outgoing
    metadata: dict[str, str]


class Intake:
    """Accepts requests. One per process; safe for many concurrent calls."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        publisher: Publishes,
        settings: Settings,
        markers: Markers | None = None,
        clock: Callable[[], datetime] = now,
    ) -> None:
        self._engine = engine
        self._at_once = engine.execution_options(isolation_level="AUTOCOMMIT")
        self._publisher = publisher
        self._markers = markers
        self._deadline_seconds = settings.accept_deadline_seconds
        self._clock = clock
        self._rows: Gathering[notifications.NewNotification, Known] = Gathering(
            self._store, pause_seconds=_COMPANY_SECONDS
        )
        self._records: Together[Outgoing] = Together(self._write_records)
        self._outbox: Gathering[Outgoing, None] = Gathering(self._queue)
        self._postgres = Circuit(probe_seconds=2 * self._deadline_seconds)
        self._kafka = Circuit(probe_seconds=2 * self._deadline_seconds)

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
        arrival = _arrival(request, notification_id, client=client, priority=priority, headers=headers)
        try:
            return await self._accept(arrival)
        except Exception as error:
            if not is_passing(error):
                raise
            raise NotAccepted(notification_id) from error

    async def _accept(self, arrival: _Arrival) -> Accepted:
        row = arrival.row
        try:
            state = await self._in_time(self._postgres, self._rows.add, row)
        except Exception as error:
            if self._markers is None or not is_passing(error):
                raise
            return await self._accept_without_row(arrival, self._markers)
        if state.fingerprint is not None and state.fingerprint != row.fingerprint:
            raise _taken()
        if state.status is not Status.ACCEPTED:
            return Accepted(row.id, state.status, state.created_at)
        in_outbox = await self._publish(arrival.record)
        return Accepted(row.id, Status.ACCEPTED, state.created_at, in_outbox)

    async def _accept_without_row(self, arrival: _Arrival, markers: Markers) -> Accepted:
        row = arrival.row
        kept = await markers.keep(_marker(arrival, self._clock()))
        if kept.fingerprint != row.fingerprint:
            raise _taken()
        await self._write_records([arrival.record])
        return Accepted(row.id, Status.ACCEPTED, kept.created_at, is_marked=True)

    async def _store(self, rows: Sequence[notifications.NewNotification]) -> list[Known]:
        """One statement for all that came while the last one was written."""
        first = {row.id: row for row in reversed(rows)}
        taken = await self._taken_by_markers(first)
        known = await self._write([row for row in first.values() if row.id not in taken])
        known |= taken
        return [known[row.id] for row in rows]

    async def _write(self, rows: Sequence[notifications.NewNotification], *, again: bool = True) -> dict[UUID, Known]:
        try:
            # A statement, and a read after it that may see more: without a transaction, two round trips less.
            async with self._at_once.connect() as connection:
                return await notifications.accept(connection, rows)
        except DBAPIError as error:
            if not (again and error.connection_invalidated):
                raise
        # One that a restarted server left behind; the pool has let go of all of that age.
        return await self._write(rows, again=False)

    async def _taken_by_markers(self, rows: dict[UUID, notifications.NewNotification]) -> dict[UUID, Known]:
        """Ids whose first request has no row yet, and another body than the one that is asked for now."""
        if self._markers is None:
            return {}
        found = await self._markers.of(list(rows))
        return {
            one.id: Known(
                id=one.id,
                fingerprint=one.fingerprint,
                status=Status.ACCEPTED,
                rank=RANK[Status.ACCEPTED],
                generation=0,
                created_at=one.created_at,
            )
            for one in found.values()
            if one.fingerprint != rows[one.id].fingerprint
        }

    async def publish(self, records: Sequence[Outgoing]) -> bool:
        """Makes records durable that need no row: Kafka within the deadline, else the outbox.

        Returns:
            Whether it was the outbox.

        Raises:
            Unavailable, TimeoutError: neither took them. Some may arrive all the same.
        """
        try:
            await self._write_records(records)
        except (TimeoutError, Unavailable):
            await self._in_time(self._postgres, self._queue, records)
            return True
        return False

    async def _publish(self, record: Outgoing) -> bool:
        """Kafka within the deadline, else the outbox; whether it was the outbox."""
        try:
            # Rows are written many at a time, so the records after them come so too; but one is enough as a probe.
            await (self._write_records([record]) if self._kafka.is_failing else self._records.add(record))
        except (TimeoutError, Unavailable):
            await self._in_time(self._postgres, self._outbox.add, record)
            return True
        return False

    async def _write_records(self, records: Sequence[Outgoing]) -> None:
        await self._in_time(self._kafka, self._publisher.send_all, records)

    async def _queue(self, records: Sequence[Outgoing]) -> list[None]:
        async with self._engine.begin() as connection:
            await outbox.queue(connection, [waiting(record) for record in records])
        return [None] * len(records)

    async def _in_time(self, server: Circuit, work: Callable[[Item], Awaitable[Answer]], item: Item) -> Answer:
        """The work's answer within the deadline. Only one caller at a time waits for a server that has missed it."""
        if not server.lets_pass():
            raise Unavailable("storage", "did not answer a moment ago")
        began = server.now()
        try:
            with Deadline(self._deadline_seconds):
                answer = await work(item)
        except TimeoutError:  # one that refuses at once may be asked by all
            if not server.is_failing:
                log.warning("a server is slow or hangs", server="kafka" if server is self._kafka else "postgres")
            server.failed(began)
            raise
        server.worked()
        return answer


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


def _arrival(
    request: NotificationRequest,
    notification_id: UUID,
    *,
    client: str,
    priority: Priority,
    headers: tuple[tuple[str, bytes | None], ...],
) -> _Arrival:
    value = request.record_value(notification_id)
    if len(value) > MAX_REQUEST_BYTES:  # larger than the body was: 1e15 has four characters, its float eighteen
        raise Refused("body", f"is larger than {MAX_REQUEST_BYTES} bytes when its numbers are written out")
    row = new_notification(
        request, notification_id, client=client, priority=priority, fingerprint=request.fingerprint()
    )
    carried = (CONTENT_TYPE, ("client-id", client.encode()), *headers)
    record = Outgoing(request_topic(priority), request.user_id.encode(), value, carried)
    return _Arrival(row, record, request.metadata)


def _marker(arrival: _Arrival, created_at: datetime) -> Marker:
    row = arrival.row
    return Marker(
        id=row.id,
        user_id=row.user_id,
        client=row.client,
        fingerprint=row.fingerprint,
        category=row.category,
        priority=Priority(row.priority),
        created_at=created_at,
        metadata=arrival.metadata,
        send_at=row.send_at,
        expires_at=row.expires_at,
    )


def _taken() -> Conflict:
    return Conflict("id", "is taken by a request with another body")


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
