"""All that a batch of requests causes, gathered before anything is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from models import ids
from models.enums import Priority, Stage, Status
from models.errors import Refused
from models.events import FailedEvent, StatusEvent
from models.repositories import outbox
from models.repositories.notifications import Known, OwnChange
from streams.agents.asked import KNOWN_AS, Asked
from streams.dead_letters import Burial
from streams.delays import FAR, delayed
from streams.domain import attempts
from streams.domain.planning import Planned
from streams.domain.replays import replay_headers
from streams.intake import scheduled
from streams.records import CONTENT_TYPE, Incoming, Outgoing
from streams.topics import FAILED, STATUS, request_topic, send_topic


@dataclass(slots=True)
class Results:
    """The rows and records of a batch, and the words for each thing that can happen to a request."""

    clock: Callable[[], datetime]
    records: list[Outgoing] = field(default_factory=list)
    planned: list[Planned] = field(default_factory=list)
    own: list[OwnChange] = field(default_factory=list)
    scheduled: list[outbox.Scheduled] = field(default_factory=list)
    #: By source: a record that fails on two channels is one dead letter.
    burials: dict[tuple[str, int, int], Burial] = field(default_factory=dict)
    #: How many requests came to what, in the words of the metric.
    decided: Counter[str] = field(default_factory=Counter)

    def bury(self, burial: Burial) -> None:
        """Sends a record to the dead letters, for the first reason that is found."""
        self.burials.setdefault(burial.source, burial)

    def fan_out(self, priority: Priority, one: Asked, planned: Planned) -> None:
        """The records of one channel: the rendered delivery, or why there is none."""
        delivery, now = planned.delivery, self.clock()
        key = delivery.user_id.encode()
        if planned.value is not None:
            topic = send_topic(delivery.channel, priority)
            self.records.append(Outgoing(topic, key, planned.value, (CONTENT_TYPE, *one.record.carried())))
        if planned.status is Status.FAILED:
            failed = FailedEvent(
                event_id=ids.event_id(delivery.delivery_id, delivery.generation, 0, Status.FAILED),
                notification_id=delivery.notification_id,
                user_id=delivery.user_id,
                channel=delivery.channel,
                timestamp=now,
                error=planned.reason or "failed",
                retry_count=0,
                metadata=delivery.metadata,
            )
            self.records.append(Outgoing(FAILED, key, failed.value()))
            self.bury(self.failure(one, planned, planned.reason or "failed"))
        told = attempts.status_event(delivery, planned.status, now, reason=planned.reason)
        self.records.append(Outgoing(STATUS, key, told.value()))

    def delay(
        self,
        priority: Priority,
        one: Asked,
        due_at: datetime,
        *marks: tuple[str, bytes],
        known_as: Callable[[], UUID],
    ) -> None:
        """Brings the request back to its lane when it is due. `known_as` tells its id among the schedules."""
        now = self.clock()
        again = Outgoing(
            request_topic(priority),
            one.request.user_id.encode(),
            one.record.value,
            (
                CONTENT_TYPE,
                ("client-id", one.client.encode()),
                (KNOWN_AS, str(one.notification_id).encode()),
                *marks,
                *replay_headers(one.record),
                *one.record.carried(),
            ),
        )
        if due_at - now > FAR:
            self.scheduled.append(scheduled(again, known_as(), due_at))
        else:
            self.records.append(delayed(again, due_at, now=now))

    def end(self, one: Asked, state: Known, status: Status, *, reason: str | None = None) -> None:
        """A status of the notification's own, which no delivery tells."""
        self.own.append(OwnChange(id=one.notification_id, status=status, generation=state.generation, reason=reason))
        self.tell(one, state, status, reason=reason)
        if status is Status.FAILED:
            failed = FailedEvent(
                event_id=ids.event_id(one.notification_id, state.generation, 0, status),
                notification_id=one.notification_id,
                user_id=one.request.user_id,
                channel=None,
                timestamp=self.clock(),
                error=reason or "failed",
                retry_count=0,
                metadata=one.request.metadata,
            )
            self.records.append(Outgoing(FAILED, one.request.user_id.encode(), failed.value()))

    def tell(self, one: Asked, state: Known, status: Status, *, reason: str | None = None) -> None:
        """The event of a status that the notification itself has."""
        event = StatusEvent(
            event_id=ids.event_id(one.notification_id, state.generation, 0, status),
            notification_id=one.notification_id,
            user_id=one.request.user_id,
            status=status,
            timestamp=state.created_at if status is Status.ACCEPTED else self.clock(),
            reason=reason,
        )
        self.records.append(Outgoing(STATUS, one.request.user_id.encode(), event.value()))

    def poison(self, record: Incoming, error_class: str, error: Refused) -> Burial:
        """A record that can't be read, or that the database refuses."""
        return Burial(
            record=record,
            stage=Stage.REQUEST,
            error_class=error_class,
            error_reason=str(error),
            failed_at=self.clock(),
        )

    def conflict(self, one: Asked) -> Burial:
        """A request under an id that another body has."""
        return Burial(
            record=one.record,
            stage=Stage.REQUEST,
            error_class="id_conflict",
            error_reason="id: is taken by a request with another body",
            failed_at=self.clock(),
            notification_id=one.notification_id,
        )

    def failure(self, one: Asked, planned: Planned | None, reason: str) -> Burial:
        """A request that can't be sent, by one channel or by any."""
        return Burial(
            record=one.record,
            stage=Stage.REQUEST,
            error_class=reason.split(":", maxsplit=1)[0],
            error_reason=reason,
            failed_at=self.clock(),
            notification_id=one.notification_id,
            channel=planned.delivery.channel if planned else None,
        )
