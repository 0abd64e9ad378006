"""What a cancellation tells others."""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from models.enums import Channel, Status
from models.events import StatusEvent
from models.ids import event_id
from models.repositories.cancellation import REASON, Cancellation
from streams.records import Outgoing
from streams.topics import STATUS


def cancelled_events(notification_id: UUID, outcome: Cancellation) -> list[Outgoing]:
    """One event for the notification and one for each delivery that this call has cancelled.

    A delivery's event has the id that its lane would give it for the attempt that now isn't made. A tombstone tells
    nothing: nobody knows yet whose notification it is.
    """
    if not outcome.changed or not outcome.user_id:
        return []
    at = datetime.now(UTC)

    def told(subject: UUID, generation: int, attempt: int, channel: Channel | None = None) -> Outgoing:
        event = StatusEvent(
            event_id=event_id(subject, generation, attempt, Status.CANCELLED),
            notification_id=notification_id,
            user_id=outcome.user_id,
            channel=channel,
            status=Status.CANCELLED,
            timestamp=at,
            reason=REASON,
        )
        return Outgoing(STATUS, outcome.user_id.encode(), event.value())

    own = told(notification_id, outcome.generation, 0)
    deliveries = [told(one.delivery_id, one.generation, one.attempts + 1, one.channel) for one in outcome.deliveries]
    return [own, *deliveries]
