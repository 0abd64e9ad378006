"""What happened to a notification, told from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from api.responses import without_nulls
from models.enums import Channel, EventKind, Outcome, Status
from models.ids import rfc3339
from models.repositories.reading import StoredAttempt, StoredDelivery, StoredEvent, StoredNotification
from models.status import ENDED_RANK, OPEN, RANK, SENT_RANK, overall

#: Told by the attempts' log, not by the delivery's row.
_TOLD_BY_ATTEMPTS = frozenset({Status.SENT, Status.RETRYING, Status.SENDING})
#: A delivery with one of these was handed to its channel's topic before.
_WAS_QUEUED = frozenset({Status.QUEUED, Status.THROTTLED, Status.RETRYING, Status.SENDING})
#: A vendor's word that it has the message says nothing that `sent` didn't.
_UNTOLD = frozenset({EventKind.ACCEPTED, EventKind.UNKNOWN})

Entry = dict[str, Any]
#: When an attempt ended, or began: by delivery, generation and number.
_Begun = dict[tuple[UUID, int | None, int | None], datetime]


def shown_status(delivery: StoredDelivery) -> Status:
    """As stored, or `sending` while an attempt is at its provider."""
    if delivery.in_flight and delivery.status in (Status.QUEUED, Status.THROTTLED, Status.RETRYING):
        return Status.SENDING
    return delivery.status


def shown_overall(notification: StoredNotification, deliveries: Sequence[StoredDelivery]) -> Status:
    """As stored; while it is open, from what its deliveries show."""
    if notification.status not in OPEN or not any(shown_status(one) is Status.SENDING for one in deliveries):
        return notification.status
    return overall([shown_status(one) for one in deliveries])


def timeline(
    notification: StoredNotification,
    deliveries: Sequence[StoredDelivery],
    attempts: Sequence[StoredAttempt],
    events: Sequence[StoredEvent] = (),
) -> list[Entry]:
    """All steps that the rows know of, the oldest first; steps of one moment in the order of a life."""
    tried = {attempt.delivery_id for attempt in attempts}
    entries = [*_of_notification(notification, deliveries)]
    told = {(event.delivery_id, str(event.kind)) for event in events}
    for delivery in deliveries:
        is_told = (delivery.delivery_id, str(delivery.status)) in told
        entries.extend(_of_delivery(delivery, tried=delivery.delivery_id in tried, told=is_told))
    channels: Mapping[UUID, Channel] = {delivery.delivery_id: delivery.channel for delivery in deliveries}
    for attempt in attempts:
        entries.extend(_of_attempt(attempt, channels[attempt.delivery_id]))
    begun: _Begun = {
        (each.delivery_id, each.generation, each.attempt): each.finished_at or each.claimed_at for each in attempts
    }
    entries.extend(
        _of_event(event, channels[event.delivery_id], begun) for event in events if event.kind not in _UNTOLD
    )
    entries.sort(key=lambda entry: entry["at"])
    return entries


def _entry(at: Any, event: str, *, channel: Channel | None = None, detail: str | None = None) -> Entry:
    return without_nulls({"at": at, "channel": channel, "event": event, "detail": detail})


def _of_notification(notification: StoredNotification, deliveries: Sequence[StoredDelivery]) -> Iterator[Entry]:
    yield _entry(notification.created_at, "accepted")
    if notification.send_at is not None and notification.send_at > notification.created_at:
        yield _entry(notification.created_at, "scheduled", detail=f"for {rfc3339(notification.send_at)}")
    if notification.status is Status.THROTTLED or (not deliveries and RANK[notification.status] >= ENDED_RANK):
        yield _entry(notification.updated_at, notification.status, detail=notification.reason)


def _of_delivery(delivery: StoredDelivery, *, tried: bool, told: bool) -> Iterator[Entry]:
    status, channel = delivery.status, delivery.channel
    if tried or status in _WAS_QUEUED or RANK[status] >= SENT_RANK:
        yield _entry(delivery.created_at, "queued", channel=channel)
    told |= tried and (status in _TOLD_BY_ATTEMPTS or status is Status.FAILED)
    if told or status in (Status.ACCEPTED, Status.QUEUED, Status.SENDING):
        return
    yield _entry(delivery.updated_at, status, channel=channel, detail=delivery.reason)


def _of_attempt(attempt: StoredAttempt, channel: Channel) -> Iterator[Entry]:
    again = f", replay {attempt.generation}" if attempt.generation else ""
    over = f", taken over {attempt.takeovers} times" if attempt.takeovers else ""
    number = f"attempt {attempt.attempt}{again}"
    # Postgres tells the claim, the worker the end: of two clocks that differ a little, nothing ends before it begins.
    begun_at = min(attempt.claimed_at, attempt.finished_at or attempt.claimed_at)
    yield _entry(begun_at, "sending", channel=channel, detail=number + over)
    if attempt.outcome is None or attempt.finished_at is None:
        return
    words = [number, *(text for text in (attempt.provider, attempt.reason) if text)]
    yield _entry(attempt.finished_at, _after(attempt), channel=channel, detail=": ".join(words))


def _of_event(event: StoredEvent, channel: Channel, begun: _Begun) -> Entry:
    """Vendors tell whole seconds, by clocks of their own: nothing of an attempt is shown before it."""
    sent_at = begun.get((event.delivery_id, event.generation, event.attempt))
    at = event.occurred_at if sent_at is None else max(event.occurred_at, sent_at)
    hardness = ("hard" if event.is_permanent else "soft") if event.kind is EventKind.BOUNCED else None
    replay = f"replay {event.generation}" if event.generation else None
    words = [text for text in (event.provider, replay, hardness, event.reason) if text]
    return _entry(at, event.kind, channel=channel, detail=": ".join(words))


def _after(attempt: StoredAttempt) -> Status:
    if attempt.outcome is Outcome.SENT:
        return Status.SENT
    return Status.FAILED if attempt.retry_at is None else Status.RETRYING
