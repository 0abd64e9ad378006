"""The queues by name, and what a sample of one says about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from models.enums import Channel, Priority
from models.repositories.provider_events import PATIENCE
from models.repositories.queue_metrics import QueueSample
from streams.topics import CONTACTS, DEAD_LETTERS, PROVIDER_EVENTS, TIERS, delay_topic, request_topic, send_topic


class QueueState(StrEnum):
    """How a queue is, in a word."""

    #: nothing waits
    IDLE = "idle"
    #: what waits is being worked on
    FLOWING = "flowing"
    #: what is there waits for its time, or for an operator
    WAITING = "waiting"
    #: it flows, but its head has waited for longer than it should
    LATE = "late"
    #: it has readers, and nothing leaves it: they hold, or hang
    HOLDING = "holding"
    #: nobody reads it
    UNATTENDED = "unattended"


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """A topic with the lane that reads it, or a table of waiting records."""

    name: str
    #: Topic without prefix; None for a table.
    topic: str | None = None
    #: Whether a lane of this name reads it, in a consumer group.
    is_read: bool = True
    #: Whether records wait there on purpose.
    is_waiting_room: bool = False
    #: The head of the queue is late when it has waited longer.
    late_seconds: float


#: Where somebody waits, where it should be soon, and where there is time.
_LATE_SECONDS = {Priority.HIGH: 5.0, Priority.NORMAL: 60.0, Priority.LOW: 900.0}
_GRACE_SECONDS = 15.0
#: Calls may take ten seconds: a lane that has not moved for longer holds.
_STILL_SECONDS = 15.0

OUTBOX = "outbox"
SCHEDULES = "schedules"
UNMATCHED_EVENTS = "provider-events-unmatched"
DLQ = "dlq"


def _queues() -> list[Queue]:
    requests = [
        Queue(name=f"requests-{priority}", topic=request_topic(priority), late_seconds=_LATE_SECONDS[priority])
        for priority in Priority
    ]
    sends = [
        Queue(
            name=f"send-{channel}-{priority}",
            topic=send_topic(channel, priority),
            late_seconds=_LATE_SECONDS[priority],
        )
        for channel in Channel
        for priority in Priority
    ]
    delays = [
        Queue(
            name=f"delay-{tier}",
            topic=delay_topic(tier),
            is_waiting_room=True,
            late_seconds=wait.total_seconds() + _GRACE_SECONDS,
        )
        for tier, wait in TIERS.items()
    ]
    return [
        *requests,
        *sends,
        Queue(name="contacts", topic=CONTACTS, late_seconds=60.0),
        Queue(name="provider-events", topic=PROVIDER_EVENTS, late_seconds=60.0),
        *delays,
        Queue(name=OUTBOX, is_read=False, late_seconds=_GRACE_SECONDS),
        Queue(name=SCHEDULES, is_read=False, is_waiting_room=True, late_seconds=_GRACE_SECONDS),
        Queue(
            name=UNMATCHED_EVENTS,
            is_read=False,
            is_waiting_room=True,
            late_seconds=PATIENCE.total_seconds() + 60 * _GRACE_SECONDS,
        ),
        Queue(name=DLQ, topic=DEAD_LETTERS, is_read=False, is_waiting_room=True, late_seconds=float("inf")),
    ]


#: All queues by name, in the order of the flow.
QUEUES: Mapping[str, Queue] = {queue.name: queue for queue in _queues()}


def state(sample: QueueSample) -> QueueState:
    """What a sample says about its queue."""
    queue = QUEUES[sample.lane]
    if queue.is_read and sample.members == 0:
        return QueueState.UNATTENDED
    if sample.lag == 0:
        return QueueState.IDLE
    age = sample.oldest_age_seconds or 0.0
    still_seconds = queue.late_seconds if queue.is_waiting_room else _STILL_SECONDS
    if sample.out_per_second == 0 and age > still_seconds:
        return QueueState.HOLDING
    if age > queue.late_seconds:
        return QueueState.LATE
    return QueueState.WAITING if queue.is_waiting_room else QueueState.FLOWING


def described(sample: QueueSample) -> dict[str, Any]:
    """A sample as operators see it, without what is unknown."""
    fields = {
        "lane": sample.lane,
        "topic": QUEUES[sample.lane].topic,
        "sampled_at": sample.sampled_at,
        "state": state(sample),
        "lag": sample.lag,
        "in_per_second": sample.in_per_second,
        "out_per_second": sample.out_per_second,
        "oldest_age_seconds": sample.oldest_age_seconds,
        "members": sample.members,
    }
    return {name: value for name, value in fields.items() if value is not None}
