"""Bodies about dead letters, coming in and going out."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Self
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.enums import Channel, Stage
from models.json_values import Maybe, Text
from models.repositories.dead_letter_search import Wanted
from models.repositories.replays import State
from models.requests import Contract, Instant
from streams.domain.replays import WhyNot
from streams.replay import DEFAULT_RATE, HIGHEST_RATE

LetterId = Annotated[str, Field(pattern=r"^[0-9]{1,9}-[0-9]{1,18}$")]
ErrorClass = Annotated[Text, Field(min_length=1, max_length=200)]
TopicName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$")]
Reason = Annotated[Text, Field(min_length=1, max_length=500)]


class ReplayBody(Contract):
    """Which dead letters to replay, by id or by filters that must all fit, and why."""

    # A filter with a slip of the pen must not replay more than was meant.
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    ids: Maybe[Annotated[tuple[LetterId, ...], Field(fail_fast=True, min_length=1, max_length=1000)]] = None
    stage: Maybe[Stage] = None
    error_class: Maybe[ErrorClass] = None
    channel: Maybe[Channel] = None
    topic: Maybe[TopicName] = None
    notification_id: Maybe[UUID] = None
    since: Maybe[Instant] = None
    until: Maybe[Instant] = None
    reason: Annotated[Maybe[Reason], Field(description="Why; needed unless it is a dry run.")] = None
    dry_run: Annotated[bool, Field(description="Only count.")] = False
    rate: Annotated[int, Field(ge=1, le=HIGHEST_RATE, description="Letters a second at most.")] = DEFAULT_RATE
    force: Annotated[bool, Field(description="Also those that were replayed too often before.")] = False

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        filters = self.wanted().given().keys() - {"ids"}
        if not filters and self.ids is None:
            raise ValueError("ids: name letters, or give a filter")
        if filters and self.ids is not None:
            raise ValueError("ids: send either ids or filters, not both")
        if self.reason is None and not self.dry_run:
            raise ValueError("reason: is needed")
        return self

    def wanted(self) -> Wanted:
        """The letters that are meant."""
        return Wanted(
            ids=self.ids,
            stage=self.stage,
            error_class=self.error_class,
            channel=self.channel,
            topic=self.topic,
            notification_id=self.notification_id,
            since=self.since,
            until=self.until,
        )


class SourceView(BaseModel):
    """Where the failed record was read."""

    topic: str | None
    partition: int | None
    offset: int | None


class DeadLetterSummary(BaseModel):
    """A dead letter in a list, without content."""

    id: str
    failed_at: datetime
    stage: Stage
    error_class: str
    error_reason: str
    attempts: int
    generation: Annotated[int, Field(description="How often what failed had been replayed before.")]
    notification_id: UUID | None = None
    channel: Channel | None = None
    source: SourceView
    replayed_at: datetime | None = None
    replay_id: UUID | None = None
    unreplayable: Annotated[WhyNot | None, Field(description="Why it can't be replayed, where that is known.")] = None


class HeaderView(BaseModel):
    """A header; values that may hold content are hidden."""

    name: str
    value: str | None


class ValueView(BaseModel):
    """The value by size and hash."""

    bytes: int
    sha256: str


class FateView(BaseModel):
    """What replaying the letter would do."""

    possible: bool
    topic: str | None = None
    generation: int | None = None
    why: WhyNot | None = None
    told: str


class DeadLetterView(DeadLetterSummary):
    """A dead letter: why it died, where it came from, and what replaying it would do."""

    is_kept: Annotated[bool, Field(description="Whether Kafka still has it.")]
    key: str | None = None
    headers: list[HeaderView] = []
    value: ValueView | None = None
    content: Annotated[dict[str, str] | None, Field(description="Only by `content=true`, which is audited.")] = None
    replay: FateView


class CountView(BaseModel):
    """How many letters of one kind."""

    error_class: str
    channel: Channel | None
    topic: str
    letters: int


class ReplayCountView(BaseModel):
    """What a replay would find."""

    matched: int
    to_replay: int
    skipped: dict[WhyNot | str, int]
    groups: list[CountView]


class AskedReplayView(ReplayCountView):
    """A replay that the workers will do."""

    replay_id: UUID
    status_url: str


class ReplayView(BaseModel):
    """A replay and how far it is."""

    replay_id: UUID
    state: State
    who: str
    reason: str
    wanted: dict[str, Any]
    rate: int
    force: bool
    matched: int
    replayed: int
    skipped: dict[WhyNot | str, int]
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
