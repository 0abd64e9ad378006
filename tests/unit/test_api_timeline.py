"""What the rows of a notification tell."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from api.timeline import shown_overall, shown_status, timeline
from models.enums import Channel, EventKind, Outcome, Priority, Status
from models.repositories.reading import StoredAttempt, StoredDelivery, StoredEvent, StoredNotification

BEGIN = datetime(2026, 1, 1, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return BEGIN + timedelta(seconds=seconds)


NOTIFICATION = StoredNotification(
    id=UUID(int=1),
    user_id="u-1",
    status=Status.QUEUED,
    category="general",
    priority=Priority.NORMAL,
    reason=None,
    metadata={},
    send_at=None,
    expires_at=None,
    created_at=at(0),
    updated_at=at(9),
)
DELIVERY = StoredDelivery(
    delivery_id=UUID(int=2),
    channel=Channel.EMAIL,
    status=Status.QUEUED,
    generation=0,
    reason=None,
    provider=None,
    provider_message_id=None,
    attempts=0,
    ambiguous=False,
    created_at=at(1),
    updated_at=at(9),
    in_flight=False,
)
ATTEMPT = StoredAttempt(
    delivery_id=UUID(int=2),
    generation=0,
    attempt=1,
    claimed_at=at(2),
    takeovers=0,
    outcome=Outcome.SENT,
    provider="smtp",
    reason=None,
    retry_at=None,
    finished_at=at(3),
)


EVENT = StoredEvent(
    delivery_id=UUID(int=2),
    kind=EventKind.DELIVERED,
    provider="ses",
    occurred_at=at(5),
    is_permanent=False,
    reason=None,
    generation=0,
    attempt=1,
)


def told(
    *deliveries: StoredDelivery,
    attempts: tuple[StoredAttempt, ...] = (),
    events: tuple[StoredEvent, ...] = (),
    **changes: Any,
) -> list[str]:
    entries = timeline(replace(NOTIFICATION, **changes), deliveries, attempts, events)
    assert [entry["at"] for entry in entries] == sorted(entry["at"] for entry in entries)
    return [" ".join(str(entry[name]) for name in ("channel", "event", "detail") if name in entry) for entry in entries]


def test_a_request_that_no_lane_has_seen() -> None:
    assert told(status=Status.ACCEPTED) == ["accepted"]


def test_a_later_sending() -> None:
    assert told(send_at=at(3600)) == ["accepted", "scheduled for 2026-01-01T13:00:00.000Z"]
    assert told(send_at=at(-5)) == ["accepted"]


def test_a_delivery_that_was_sent_and_opened() -> None:
    sent = replace(DELIVERY, status=Status.SENT, attempts=1)
    steps = ["accepted", "email queued", "email sending attempt 1", "email sent attempt 1: smtp"]
    assert told(sent, attempts=(ATTEMPT,)) == steps
    opened = replace(sent, status=Status.OPENED)
    assert told(opened, attempts=(ATTEMPT,)) == [*steps, "email opened"]


def test_attempts_with_their_reasons() -> None:
    first = replace(ATTEMPT, outcome=Outcome.RETRY, reason="451", retry_at=at(4))
    second = replace(ATTEMPT, attempt=2, claimed_at=at(4), finished_at=at(5), outcome=Outcome.PERMANENT, takeovers=1)
    failed = replace(DELIVERY, status=Status.FAILED, attempts=2)
    assert told(failed, attempts=(first, second)) == [
        "accepted",
        "email queued",
        "email sending attempt 1",
        "email retrying attempt 1: smtp: 451",
        "email sending attempt 2, taken over 1 times",
        "email failed attempt 2: smtp",
    ]


def test_ends_without_an_attempt() -> None:
    for status in (Status.SUPPRESSED, Status.EXPIRED, Status.CANCELLED, Status.FAILED):
        assert told(replace(DELIVERY, status=status, reason="why")) == ["accepted", f"email {status} why"]
    assert told(status=Status.EXPIRED, reason="expired") == ["accepted", "expired expired"]


def test_a_cancellation_after_a_failed_attempt() -> None:
    first = replace(ATTEMPT, outcome=Outcome.RETRY, retry_at=at(60))
    cancelled = replace(DELIVERY, status=Status.CANCELLED, attempts=1)
    assert told(cancelled, attempts=(first,))[-2:] == ["email retrying attempt 1: smtp", "email cancelled"]


def test_a_replay_is_told() -> None:
    again = replace(ATTEMPT, generation=1)
    assert "email sending attempt 1, replay 1" in told(replace(DELIVERY, status=Status.SENT), attempts=(again,))


def test_an_attempt_in_flight_shows_as_sending() -> None:
    flying = replace(DELIVERY, in_flight=True)
    assert shown_status(flying) is Status.SENDING
    assert shown_status(replace(flying, status=Status.SENT)) is Status.SENT
    assert shown_overall(NOTIFICATION, [flying]) is Status.SENDING
    assert shown_overall(NOTIFICATION, [flying, DELIVERY]) is Status.QUEUED
    assert shown_overall(replace(NOTIFICATION, status=Status.CANCELLED), [flying]) is Status.CANCELLED


def test_a_request_that_waits_for_its_slot_says_so() -> None:
    throttled = replace(NOTIFICATION, status=Status.THROTTLED)
    waiting = timeline(throttled, [], [])
    assert [(entry["event"], entry["at"]) for entry in waiting] == [("accepted", at(0)), ("throttled", at(9))]
    back = timeline(throttled, [replace(DELIVERY, created_at=at(20))], [])
    assert [entry["event"] for entry in back] == ["accepted", "throttled", "queued"]


SENT = ["accepted", "email queued", "email sending attempt 1", "email sent attempt 1: smtp"]


def test_what_a_provider_told_is_shown_and_its_status_not_twice() -> None:
    bounced = replace(DELIVERY, status=Status.BOUNCED, attempts=1, reason="5.1.1")
    events = (
        replace(EVENT, kind=EventKind.ACCEPTED, occurred_at=at(4)),
        EVENT,
        replace(EVENT, kind=EventKind.BOUNCED, is_permanent=True, reason="5.1.1", occurred_at=at(6)),
    )
    expected = [*SENT, "email delivered ses", "email bounced ses: hard: 5.1.1"]
    assert told(bounced, attempts=(ATTEMPT,), events=events) == expected


def test_a_status_whose_event_is_forgotten_is_shown_from_its_row() -> None:
    opened = replace(DELIVERY, status=Status.OPENED, attempts=1)
    assert told(opened, attempts=(ATTEMPT,), events=(EVENT,)) == [*SENT, "email delivered ses", "email opened"]


def test_a_vendors_whole_seconds_do_not_go_before_the_sending() -> None:
    delivered = replace(DELIVERY, status=Status.DELIVERED, attempts=1)
    events = (replace(EVENT, occurred_at=at(1)),)
    assert told(delivered, attempts=(ATTEMPT,), events=events) == [*SENT, "email delivered ses"]


def test_what_was_told_of_a_replay_says_so() -> None:
    failed = replace(DELIVERY, status=Status.FAILED, generation=2, attempts=1)
    event = replace(EVENT, kind=EventKind.FAILED, provider="twilio", reason="30005", generation=2)
    again = replace(ATTEMPT, generation=2)
    assert told(failed, attempts=(again,), events=(event,))[-1] == "email failed twilio: replay 2: 30005"


def test_an_attempt_begins_before_it_ends_though_two_clocks_tell_it() -> None:
    hasty = replace(ATTEMPT, claimed_at=at(3.004), finished_at=at(3))
    events = [entry["event"] for entry in timeline(NOTIFICATION, [replace(DELIVERY, status=Status.SENT)], [hasty])]
    assert events == ["accepted", "queued", "sending", "sent"]
