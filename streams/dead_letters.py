"""Dead letters: the failed record's bytes unchanged, with headers that tell why, and one index row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncConnection

from models.enums import Channel, Stage
from models.ids import rfc3339
from models.repositories import dead_letters as index
from streams.domain.replays import generation_of
from streams.letter_headers import HEADERS
from streams.records import Incoming, Outgoing
from streams.topics import DEAD_LETTERS

_LONGEST_REASON = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """A record that ends here, and why. `error_reason` holds no content and no address."""

    record: Incoming
    stage: Stage
    error_class: str
    error_reason: str
    failed_at: datetime
    attempts: int = 0
    notification_id: UUID | None = None
    channel: Channel | None = None

    @property
    def source(self) -> tuple[str, int, int]:
        """Where the record came from."""
        return self.record.topic, self.record.partition, self.record.offset

    def outgoing(self) -> Outgoing:
        """The dead letter: key, value and headers unchanged, ours behind them."""
        told: dict[str, str | None] = {
            "error-class": self.error_class,
            "error-reason": self.error_reason[:_LONGEST_REASON],
            "stage": self.stage,
            "source-topic": self.record.topic,
            "source-partition": str(self.record.partition),
            "source-offset": str(self.record.offset),
            "attempts": str(self.attempts),
            "failed-at": rfc3339(self.failed_at),
            "notification-id": str(self.notification_id) if self.notification_id else None,
            "channel": self.channel,
        }
        kept = tuple(pair for pair in self.record.headers if pair[0] not in HEADERS)
        ours = tuple((name, value.encode()) for name, value in told.items() if value is not None)
        return Outgoing(DEAD_LETTERS, self.record.key, self.record.value, kept + ours)

    def indexed(self, partition: int, offset: int) -> index.DeadLetter:
        """Its index row, once it lies at (partition, offset) of the dead-letter topic."""
        return index.DeadLetter(
            id=f"{partition}-{offset}",
            source_topic=self.record.topic,
            source_partition=self.record.partition,
            source_offset=self.record.offset,
            stage=self.stage,
            error_class=self.error_class,
            error_reason=self.error_reason[:_LONGEST_REASON],
            notification_id=self.notification_id,
            channel=self.channel,
            attempts=self.attempts,
            failed_at=self.failed_at,
            generation=generation_of(self.record),
        )


async def unburied(connection: AsyncConnection, burials: Sequence[Burial]) -> list[Burial]:
    """Those that are not in the index yet: a repeat after a crash buries nothing twice."""
    if not burials:
        return []
    there = await index.indexed(connection, [burial.source for burial in burials])
    return [burial for burial in burials if burial.source not in there]
