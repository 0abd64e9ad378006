"""What a provider's event does to its delivery, as pure functions.

A delivery takes the highest rank that it is told of, so any order and any repetition of events ends in the same state.
Two rules keep that true over replays: a proof that a message arrived counts for whatever generation the delivery is in
by now; a failure counts only for the generation that it is about.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

from models.changes import Change
from models.enums import EventKind, Status
from models.events import FailedEvent, StatusEvent
from models.ids import event_id
from models.provider_events import ProviderEvent
from models.standings import Effect, Match, Standing
from models.status import RANK, RANK_AFTER_SENT

#: The rest changes no status: `accepted` says nothing that `sent` didn't, `deferred` is tried again by the vendor.
#: `bounced` is final for its message also where the address is not dead.
STATUS: Mapping[EventKind, Status] = {
    EventKind.DELIVERED: Status.DELIVERED,
    EventKind.OPENED: Status.OPENED,
    EventKind.CLICKED: Status.CLICKED,
    EventKind.BOUNCED: Status.BOUNCED,
    EventKind.COMPLAINED: Status.COMPLAINED,
    EventKind.FAILED: Status.FAILED,
    EventKind.CANCELLED: Status.CANCELLED,
}
#: Who opened, clicked or complained has it.
_PROOFS = frozenset({Status.DELIVERED, Status.OPENED, Status.CLICKED, Status.COMPLAINED})
#: Side by side they would end as whichever came first, so one is above the other.
_AFTER_SENT = {Status.CANCELLED: RANK_AFTER_SENT, Status.FAILED: RANK_AFTER_SENT + 1}
#: What consumers of `notification.failed` hear of too.
_FAILURES = frozenset({Status.BOUNCED, Status.FAILED})


def rank_of(status: Status) -> int:
    """The rank of a status that a provider tells of."""
    return _AFTER_SENT.get(status, RANK[status])


@dataclass(frozen=True, slots=True)
class Judged:
    """An event and what it came to. Without `match` it waits for its delivery."""

    event: ProviderEvent
    match: Match | None = None
    #: The message's category.
    category: str | None = None
    change: Change | None = None
    #: What is to be told; none where the status is no other than before.
    effect: Effect | None = None

    @property
    def delivery_id(self) -> UUID | None:
        """The delivery that it is about, where that is known."""
        return None if self.match is None else self.match.delivery_id


def judge(
    events: Iterable[ProviderEvent], matches: Mapping[str, Match], standings: Mapping[UUID, Standing]
) -> list[Judged]:
    """What each of these does, one after the other."""
    now = dict(standings)
    return [_judged(event, matches.get(event.event_id), now) for event in events]


def _judged(event: ProviderEvent, match: Match | None, now: dict[UUID, Standing]) -> Judged:
    standing = None if match is None else now.get(match.delivery_id)
    if match is None or standing is None:
        return Judged(event)
    generation = event.generation if event.generation is not None else match.generation
    if generation is not None and generation > standing.generation:
        return Judged(event)  # the replay that it is about has not been recorded yet, and will be in a moment
    known = replace(
        match,
        generation=standing.generation if generation is None else generation,
        attempt=event.attempt or match.attempt or max(1, standing.attempts),
    )
    change = decide(event, standing, known)
    if change is None:
        return Judged(event, known, standing.category)
    now[match.delivery_id] = after(standing, change)
    effect = None if change.status is standing.status else _effect(event, standing, change)
    return Judged(event, known, standing.category, change, effect)


def decide(event: ProviderEvent, standing: Standing, match: Match) -> Change | None:
    """The change that an event asks for; None where it has nothing to add."""
    status = STATUS.get(event.kind)
    if status is None or rank_of(status) <= standing.rank:
        return None
    is_proof = status in _PROOFS
    if not is_proof and match.generation != standing.generation:
        return None
    provider, message = _carrier(event, standing)
    return Change(
        delivery_id=standing.delivery_id,
        notification_id=standing.notification_id,
        status=status,
        rank=rank_of(status),
        generation=standing.generation,
        reason=_reason(status, event.reason),
        provider=provider,
        provider_message_id=message,
        attempts=max(standing.attempts, match.attempt or 1),
    )


def _reason(status: Status, reason: str | None) -> str | None:
    """A reason is one for something that went wrong; what a server said as it took a mail is none."""
    return reason if status in _AFTER_SENT or status in (Status.BOUNCED, Status.COMPLAINED) else None


def _carrier(event: ProviderEvent, standing: Standing) -> tuple[str | None, str | None]:
    """Provider and its message id: what the lane recorded, else (the callback was faster) the event's."""
    if standing.provider is None or (standing.provider_message_id is None and event.provider_message_id is not None):
        return event.provider, event.provider_message_id
    return standing.provider, standing.provider_message_id


def after(standing: Standing, change: Change) -> Standing:
    """Where the delivery stands then."""
    return replace(
        standing,
        status=change.status,
        rank=change.rank,
        attempts=change.attempts,
        provider=change.provider,
        provider_message_id=change.provider_message_id,
    )


def _effect(event: ProviderEvent, standing: Standing, change: Change) -> Effect:
    return Effect(
        delivery_id=standing.delivery_id,
        notification_id=standing.notification_id,
        user_id=standing.user_id,
        channel=standing.channel,
        metadata=standing.metadata,
        status=change.status,
        generation=change.generation,
        attempt=change.attempts,
        provider=event.provider,
        reason=event.reason,
        at=event.occurred_at,
    )


def told(effect: Effect) -> Sequence[StatusEvent | FailedEvent]:
    """What others are told of a change: the same to the byte whenever it is told."""
    reason = _reason(effect.status, effect.reason)
    known_as = event_id(effect.delivery_id, effect.generation, effect.attempt, effect.status)
    status = StatusEvent(
        event_id=known_as,
        notification_id=effect.notification_id,
        user_id=effect.user_id,
        channel=effect.channel,
        status=effect.status,
        timestamp=effect.at,
        reason=reason,
        provider=effect.provider,
    )
    if effect.status not in _FAILURES:
        return (status,)
    failed = FailedEvent(
        event_id=known_as,
        notification_id=effect.notification_id,
        user_id=effect.user_id,
        channel=effect.channel,
        timestamp=effect.at,
        error=reason or str(effect.status),
        retry_count=max(0, effect.attempt - 1),
        metadata=effect.metadata,
    )
    return failed, status
