"""What happened to a notification, told from its rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

from api.responses import without_nulls
from models.enums import Channel, Outcome, Status
from models.ids import rfc3339
from models.repositories.reading import StoredAttempt, StoredDelivery, StoredNotification
from models.status import ENDED_RANK, OPEN, RANK, SENT_RANK, overall

#: Told by the attempts' log, not by the delivery's row.
_TOLD_BY_ATTEMPTS = frozenset({Status.SENT, Status.RETRYING, Status.SENDING})
#: A delivery with one of these was handed to its channel's topic before.
_WAS_QUEUED = frozenset({Status.QUEUED, Status.THROTTLED, Status.RETRYING, Status.SENDING})

Entry = dict[str, Any]


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
) -> list[Entry]:
    """All steps that the rows know of, the oldest first; steps of one moment in the order of a life."""
    tried = {attempt.delivery_id for attempt in attempts}
    entries = [*_of_notification(notification, deliveries)]
    for delivery in deliveries:
        entries.extend(_of_delivery(delivery, tried=delivery.delivery_id in tried))
    channels: Mapping[UUID, Channel] = {delivery.delivery_id: delivery.channel for delivery in deliveries}
    for attempt in attempts:
        entries.extend(_of_attempt(attempt, channels[attempt.delivery_id]))
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


def _of_delivery(delivery: StoredDelivery, *, tried: bool) -> Iterator[Entry]:
    status, channel = delivery.status, delivery.channel
    if tried or status in _WAS_QUEUED or RANK[status] >= SENT_RANK:
        yield _entry(delivery.created_at, "queued", channel=channel)
    told = tried and (status in _TOLD_BY_ATTEMPTS or status is Status.FAILED)
    if told or status in (Status.ACCEPTED, Status.QUEUED, Status.SENDING):
        return
    yield _entry(delivery.updated_at, status, channel=channel, detail=delivery.reason)


def _of_attempt(attempt: StoredAttempt, channel: Channel) -> Iterator[Entry]:
    again = f", replay {attempt.generation}" if attempt.generation else ""
    over = f", taken over {attempt.takeovers} times" if attempt.takeovers else ""
    number = f"attempt {attempt.attempt}{again}"
    yield _entry(attempt.claimed_at, "sending", channel=channel, detail=number + over)
    if attempt.outcome is None or attempt.finished_at is None:
        return
    words = [number, *(text for text in (attempt.provider, attempt.reason) if text)]
    yield _entry(attempt.finished_at, _after(attempt), channel=channel, detail=": ".join(words))


def _after(attempt: StoredAttempt) -> Status:
    if attempt.outcome is Outcome.SENT:
        return Status.SENT
    return Status.FAILED if attempt.retry_at is None else Status.RETRYING
