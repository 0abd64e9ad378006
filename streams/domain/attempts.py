"""What one attempt causes, as a pure function of the delivery and the attempt's stored outcome.

The same function serves the first run and every repeat after a crash: an attempt with an outcome is never called again,
its effects are produced again, byte for byte.
"""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from models.changes import Attempt, Change
from models.deliveries import Delivery
from models.enums import Outcome, Status
from models.events import FailedEvent, SentEvent, StatusEvent
from models.ids import event_id
from models.status import RANK


class Effects(NamedTuple):
    """All that follows from an attempt."""

    change: Change
    events: tuple[SentEvent | FailedEvent | StatusEvent, ...]
    #: The next attempt and when it is due.
    retry: tuple[Delivery, datetime] | None = None
    #: Why the record is a dead letter.
    dead: str | None = None


def effects(delivery: Delivery, attempt: Attempt) -> Effects:
    """Change, events, and the retry or dead letter that follow from a finished attempt."""
    if attempt.outcome is Outcome.SENT:
        return _sent(delivery, attempt)
    if attempt.retry_at is not None:
        return _retried(delivery, attempt, attempt.retry_at)
    if delivery.reached or attempt.reached_devices:
        # A push message that some of its devices took: the others don't make it fail.
        return _sent(delivery, attempt)
    return _failed(delivery, attempt)


def reached_already(delivery: Delivery, at: datetime, reason: str) -> Attempt:
    """What stands in the place of an attempt that must not be made, where earlier ones reached some devices: it was
    sent, and `reason` is why the others are left out."""
    return Attempt(
        delivery_id=delivery.delivery_id,
        generation=delivery.generation,
        attempt=delivery.attempt,
        outcome=Outcome.SENT,
        provider=None,
        provider_message_id=None,
        reason=reason,
        retry_at=None,
        finished_at=at,
    )


def status_event(
    delivery: Delivery,
    status: Status,
    at: datetime,
    *,
    reason: str | None = None,
    provider: str | None = None,
) -> StatusEvent:
    """The event that a delivery has a new status."""
    return StatusEvent(
        event_id=event_id(delivery.delivery_id, delivery.generation, delivery.attempt, status),
        notification_id=delivery.notification_id,
        user_id=delivery.user_id,
        channel=delivery.channel,
        status=status,
        timestamp=at,
        reason=reason,
        provider=provider,
    )


def change(delivery: Delivery, status: Status, *, reason: str | None = None) -> Change:
    """A delivery's move to a status without an attempt (expired, suppressed, cancelled)."""
    return Change(
        delivery_id=delivery.delivery_id,
        notification_id=delivery.notification_id,
        status=status,
        rank=RANK[status],
        generation=delivery.generation,
        reason=reason,
        attempts=delivery.attempt - 1,
    )


def _attempted(delivery: Delivery, attempt: Attempt, status: Status) -> Change:
    unknown = delivery.ambiguous > 0 or attempt.takeovers > 0 or attempt.outcome is Outcome.AMBIGUOUS
    return Change(
        delivery_id=delivery.delivery_id,
        notification_id=delivery.notification_id,
        status=status,
        rank=RANK[status],
        generation=delivery.generation,
        reason=attempt.reason,
        provider=attempt.provider,
        provider_message_id=attempt.provider_message_id,
        attempts=attempt.attempt,
        ambiguous=unknown,
    )


def _sent(delivery: Delivery, attempt: Attempt) -> Effects:
    at = attempt.finished_at
    sent = SentEvent(
        event_id=event_id(delivery.delivery_id, delivery.generation, attempt.attempt, "sent"),
        notification_id=delivery.notification_id,
        user_id=delivery.user_id,
        channel=delivery.channel,
        timestamp=at,
        provider=attempt.provider or "unknown",
        provider_message_id=attempt.provider_message_id,
        category=delivery.category,
        attempt=attempt.attempt,
        metadata=delivery.metadata,
    )
    told = status_event(delivery, Status.SENT, at, provider=attempt.provider)
    return Effects(change=_attempted(delivery, attempt, Status.SENT), events=(sent, told))


def _retried(delivery: Delivery, attempt: Attempt, retry_at: datetime) -> Effects:
    unknown = attempt.outcome is Outcome.AMBIGUOUS
    # A push message goes on although one of its providers is broken, for the devices of the other: no try is burnt.
    is_try = attempt.outcome is not Outcome.BROKEN
    following = delivery.next_attempt(tries=delivery.tries + is_try, ambiguous=delivery.ambiguous + unknown)
    if attempt.remaining_devices is not None:
        following = following.next_devices(remaining=attempt.remaining_devices, reached=attempt.reached_devices or 0)
    told = status_event(
        delivery, Status.RETRYING, attempt.finished_at, reason=attempt.reason, provider=attempt.provider
    )
    return Effects(change=_attempted(delivery, attempt, Status.RETRYING), events=(told,), retry=(following, retry_at))


def _failed(delivery: Delivery, attempt: Attempt) -> Effects:
    reason = attempt.reason or str(attempt.outcome)
    at = attempt.finished_at
    failed = FailedEvent(
        event_id=event_id(delivery.delivery_id, delivery.generation, attempt.attempt, "failed"),
        notification_id=delivery.notification_id,
        user_id=delivery.user_id,
        channel=delivery.channel,
        timestamp=at,
        error=reason,
        retry_count=delivery.tries,
        metadata=delivery.metadata,
    )
    told = status_event(delivery, Status.FAILED, at, reason=reason, provider=attempt.provider)
    return Effects(change=_attempted(delivery, attempt, Status.FAILED), events=(failed, told), dead=reason)
