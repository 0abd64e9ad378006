"""What providers tell becomes status, once, in whatever order and however often it comes."""

from __future__ import annotations

import asyncio
import itertools
import random
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import event as listening

from models.deliveries import Delivery
from models.enums import Channel, EventKind, Status
from models.ids import event_id
from models.provider_events import ProviderEvent
from models.repositories import provider_events
from models.settings import Settings
from models.status import RANK
from streams.agents.provider_events import ProviderEventStage
from streams.records import Incoming
from streams.topics import DEAD_LETTERS, FAILED, PROVIDER_EVENTS, STATUS
from streams.unmatched_events import UnmatchedEvents
from tests.fixtures.rows import Rows, attempt, change, delivery, some_rows
from tests.fixtures.stack import Databases
from tests.fixtures.told import AT, Crash, Kafka, heard, told

SETTINGS = Settings(database_url="postgresql://none/none")


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


@pytest.fixture(autouse=True)
async def nothing_told_yet(rows: Rows) -> None:
    await rows.execute("TRUNCATE provider_events")


def stage(rows: Rows, kafka: Kafka) -> ProviderEventStage:
    return ProviderEventStage(engine=rows.engine, publisher=kafka, settings=SETTINGS)


def room(rows: Rows, kafka: Kafka) -> UnmatchedEvents:
    return UnmatchedEvents(engine=rows.engine, publisher=kafka, settings=SETTINGS)


async def work(rows: Rows, kafka: Kafka, *records: Incoming | ProviderEvent) -> None:
    """The lane, on one batch of these."""
    await stage(rows, kafka)([one if isinstance(one, Incoming) else heard(one) for one in records])


async def hasten(rows: Rows) -> None:
    """All that waits is due now."""
    await rows.execute("UPDATE provider_events SET retry_at = now() - interval '1 s' WHERE retry_at IS NOT NULL")


async def a_sent(rows: Rows, *, message: str | None = None, **more: Any) -> Delivery:
    """An e-mail that SendGrid took."""
    notification = await rows.queued(Channel.EMAIL, **more)
    one = delivery(notification)
    await record_sent(rows, one, message or uuid.uuid4().hex)
    return one


async def record_sent(rows: Rows, one: Delivery, message: str) -> None:
    """What the channel lane does before and after the call."""
    [claim] = await rows.claim(one)
    assert claim.won
    await rows.finish(attempt(one, provider="sendgrid", provider_message_id=message))
    await rows.advance(
        change(
            one.notification_id,
            Channel.EMAIL,
            Status.SENT,
            generation=one.generation,
            attempts=one.attempt,
            provider="sendgrid",
            provider_message_id=message,
        )
    )


async def row(rows: Rows, one: Delivery) -> Any:
    [found] = await rows.fetch("SELECT * FROM notification_deliveries WHERE delivery_id = :id", id=one.delivery_id)
    return found


async def stored(rows: Rows, event: ProviderEvent) -> Any:
    [found] = await rows.fetch("SELECT * FROM provider_events WHERE event_id = :id", id=event.event_id)
    return found


STEPS = (EventKind.DELIVERED, EventKind.OPENED, EventKind.CLICKED, EventKind.COMPLAINED)


@pytest.mark.parametrize("seed", range(6))
async def test_any_order_and_repetition_ends_in_the_same_state(rows: Rows, seed: int) -> None:
    chance = random.Random(seed)
    one, kafka = await a_sent(rows), Kafka()
    events = [told(kind, delivery_id=one.delivery_id, generation=0, attempt=1) for kind in STEPS]
    order = chance.sample([*events, *events, *events], 12)
    while order:  # in batches of any size
        size = chance.randint(1, 4)
        await work(rows, kafka, *order[:size])
        order = order[size:]
    assert (await row(rows, one)).status == Status.COMPLAINED
    assert await rows.status(one.notification_id) == Status.COMPLAINED
    [counted] = await rows.fetch(
        "SELECT count(*) AS n FROM provider_events WHERE delivery_id = :id", id=one.delivery_id
    )
    assert counted.n == len(events)
    statuses = [value["status"] for value in kafka.values(STATUS)]
    assert len(statuses) == len(set(statuses))
    assert statuses[-1] == "complained"
    assert statuses == sorted(statuses, key=lambda status: RANK[Status(status)])


async def test_what_is_told_names_the_delivery(rows: Rows) -> None:
    one, kafka = await a_sent(rows), Kafka()
    await work(rows, kafka, told(delivery_id=one.delivery_id, generation=0, attempt=1, reason="250 OK"))
    [value] = kafka.values(STATUS)
    assert value == {
        "event_id": str(event_id(one.delivery_id, 0, 1, "delivered")),
        "notification_id": str(one.notification_id),
        "user_id": (await rows.fetch("SELECT user_id FROM notifications WHERE id = :i", i=one.notification_id))[0][0],
        "channel": "email",
        "status": "delivered",
        "timestamp": "2026-01-02T12:30:00.000Z",
        "provider": "sendgrid",
    }
    assert [record.key.decode() for record in kafka.told if record.key] == [value["user_id"]]


@pytest.mark.parametrize(
    ("kind", "status"),
    [(EventKind.BOUNCED, "bounced"), (EventKind.FAILED, "failed")],
)
async def test_a_failure_after_sent_is_told_as_one(rows: Rows, kind: EventKind, status: str) -> None:
    one, kafka = await a_sent(rows), Kafka()
    await work(rows, kafka, told(kind, delivery_id=one.delivery_id, reason="5.1.1"))
    found = await row(rows, one)
    assert (found.status, found.reason) == (status, "5.1.1")
    assert await rows.status(one.notification_id) == status
    [failed], [changed] = kafka.values(FAILED), kafka.values(STATUS)
    assert (failed["error"], failed["retry_count"]) == ("5.1.1", 0)
    assert changed["status"] == status


async def test_a_match_by_notification_and_by_message_id(rows: Rows) -> None:
    one, other, kafka = await a_sent(rows), await a_sent(rows, message="sg-4711"), Kafka()
    await work(
        rows,
        kafka,
        told(notification_id=one.notification_id),
        told(EventKind.OPENED, provider_message_id="sg-4711"),
        told(EventKind.CLICKED, provider="other", provider_message_id="sg-4711"),
    )
    assert (await row(rows, one)).status == "delivered"
    assert (await row(rows, other)).status == "opened"


async def test_an_unknown_delivery_id_falls_back_to_the_message_id(rows: Rows) -> None:
    one = await a_sent(rows, message="sg-fallback")
    await work(rows, Kafka(), told(delivery_id=uuid.uuid4(), provider_message_id="sg-fallback"))
    assert (await row(rows, one)).status == "delivered"


async def test_a_callback_that_is_faster_than_our_row(rows: Rows) -> None:
    """It brings provider and message id along; what the lane records after it changes nothing."""
    one, kafka = delivery(await rows.queued(Channel.EMAIL)), Kafka()
    await work(rows, kafka, told(delivery_id=one.delivery_id, provider_message_id="fast"))
    found = await row(rows, one)
    assert (found.status, found.provider, found.provider_message_id, found.attempts) == (
        "delivered",
        "sendgrid",
        "fast",
        1,
    )
    [claim] = await rows.claim(one)
    assert claim.forbidden == "already_sent"
    assert (await row(rows, one)).status == "delivered"


async def test_a_proof_of_delivery_leaves_failed(rows: Rows) -> None:
    one, kafka = delivery(await rows.queued(Channel.EMAIL)), Kafka()
    await rows.advance(change(one.notification_id, Channel.EMAIL, Status.FAILED, attempts=3))
    assert await rows.status(one.notification_id) == "failed"
    await work(rows, kafka, told(EventKind.OPENED, delivery_id=one.delivery_id))
    assert (await row(rows, one)).status == "opened"
    assert await rows.status(one.notification_id) == "opened"


async def test_a_failure_of_an_earlier_generation_is_kept_without_effect(rows: Rows) -> None:
    one, kafka = await a_sent(rows), Kafka()
    await rows.advance(change(one.notification_id, Channel.EMAIL, Status.QUEUED, generation=1))
    old = told(EventKind.BOUNCED, delivery_id=one.delivery_id, generation=0, attempt=1)
    await work(rows, kafka, old)
    assert (await row(rows, one)).status == "queued"
    assert (await stored(rows, old)).delivery_id == one.delivery_id
    assert kafka.told == []
    await work(rows, kafka, told(delivery_id=one.delivery_id, generation=0, attempt=1))
    found = await row(rows, one)
    assert (found.status, found.generation) == ("delivered", 1)


async def test_a_message_id_tells_the_generation(rows: Rows) -> None:
    one = await a_sent(rows, message="first-generation")
    await rows.advance(change(one.notification_id, Channel.EMAIL, Status.QUEUED, generation=1))
    old = told(EventKind.BOUNCED, notification_id=one.notification_id, provider_message_id="first-generation")
    await work(rows, Kafka(), old)
    assert (await row(rows, one)).status == "queued"
    assert (await stored(rows, old)).generation == 0


async def test_an_event_of_a_generation_that_is_not_recorded_yet_waits_for_it(rows: Rows) -> None:
    one, kafka = await a_sent(rows), Kafka()
    early = told(EventKind.FAILED, delivery_id=one.delivery_id, generation=1, attempt=1)
    await work(rows, kafka, early)
    assert kafka.told == []
    await rows.advance(change(one.notification_id, Channel.EMAIL, Status.QUEUED, generation=1))
    await hasten(rows)
    await room(rows, kafka).look()
    found = await row(rows, one)
    assert (found.status, found.generation) == ("failed", 1)


async def test_killed_between_commit_and_telling_it_tells_the_same_again(rows: Rows) -> None:
    one, dying, kafka = await a_sent(rows), Kafka(crashes=True), Kafka()
    records = [
        heard(told(kind, delivery_id=one.delivery_id, reason="550"))
        for kind in (EventKind.DELIVERED, EventKind.BOUNCED)
    ]
    with pytest.raises(Crash):
        await work(rows, dying, *records)
    assert (await row(rows, one)).status == "bounced"
    assert dying.told == []
    await work(rows, kafka, *records)
    await work(rows, kafka, *records)  # and killed once more, before the offset
    first, second = kafka.told[:3], kafka.told[3:]
    assert first == second
    assert [value["status"] for value in kafka.values(STATUS)] == ["delivered", "bounced"] * 2
    assert len(kafka.values(FAILED)) == 2


async def test_a_vendors_repeat_tells_nothing(rows: Rows) -> None:
    one, kafka = await a_sent(rows), Kafka()
    event = told(delivery_id=one.delivery_id)
    await work(rows, kafka, event)
    await work(rows, kafka, event, event)
    assert len(kafka.told) == 1


async def test_processes_that_hear_the_same_at_once_tell_it_once_each_at_most(rows: Rows) -> None:
    """A record whose lane moved is read by two; both find the same state, and the same event id."""
    kafka = Kafka()
    sent = [await a_sent(rows) for _ in range(5)]
    events = [told(kind, delivery_id=one.delivery_id) for one in sent for kind in STEPS]
    records = [heard(one) for one in events]
    await asyncio.gather(*(work(rows, kafka, *random.Random(n).sample(records, len(records))) for n in range(4)))
    for one in sent:
        assert (await row(rows, one)).status == "complained"
    values = kafka.values(STATUS)
    assert {value["event_id"] for value in values if value["status"] == "complained"} == {
        str(event_id(one.delivery_id, 0, 1, "complained")) for one in sent
    }


async def test_what_matches_nothing_waits_and_is_matched_later(rows: Rows) -> None:
    kafka = Kafka()
    event = told(provider_message_id="late-1", address="late@example.com", kind=EventKind.BOUNCED, is_permanent=True)
    await work(rows, kafka, event)
    waiting = await stored(rows, event)
    assert (waiting.delivery_id, waiting.pending["address"]) == (None, "late@example.com")
    assert waiting.give_up_at - waiting.received_at == timedelta(hours=24)
    assert kafka.told == []
    assert await room(rows, kafka).look() == 0  # not before its time
    await hasten(rows)
    await room(rows, kafka).look()
    again = await stored(rows, event)
    assert again.looks == 1
    assert again.retry_at > datetime.now(UTC) + timedelta(seconds=2)

    one = await a_sent(rows, message="late-1", category="general")
    await hasten(rows)
    await room(rows, kafka).look()
    assert (await row(rows, one)).status == "bounced"
    assert [value["status"] for value in kafka.values(STATUS)] == ["bounced"]
    done = await stored(rows, event)
    assert (done.delivery_id, done.pending, done.retry_at, done.give_up_at) == (one.delivery_id, None, None, None)
    [bounce] = await rows.fetch("SELECT * FROM bounce_records WHERE event_id = :id", id=event.event_id)
    assert (bounce.category, bounce.delivery_id) == ("general", one.delivery_id)
    await hasten(rows)
    await room(rows, kafka).look()
    assert len(kafka.values(STATUS)) == 1


async def test_a_room_that_is_killed_before_it_tells_tells_later(rows: Rows) -> None:
    event, kafka = told(provider_message_id="late-2"), Kafka()
    await work(rows, kafka, event)
    await a_sent(rows, message="late-2")
    await hasten(rows)
    with pytest.raises(Crash):
        await room(rows, Kafka(crashes=True)).look()
    assert (await stored(rows, event)).status == "delivered"
    await hasten(rows)
    await room(rows, kafka).look()
    assert [value["status"] for value in kafka.values(STATUS)] == ["delivered"]
    await hasten(rows)
    assert await room(rows, kafka).look() == 0


async def test_rooms_share_what_waits(rows: Rows) -> None:
    kafka = Kafka()
    sent = [await a_sent(rows) for _ in range(20)]
    names = [f"shared-{uuid.uuid4().hex}" for _ in sent]
    await work(rows, kafka, *(told(provider_message_id=name) for name in names))
    for one, name in zip(sent, names, strict=True):
        await rows.execute(
            "UPDATE delivery_logs SET provider_message_id = :name WHERE delivery_id = :id",
            name=name,
            id=one.delivery_id,
        )
    await hasten(rows)
    await asyncio.gather(*(room(rows, kafka).look() for _ in range(4)))
    values = kafka.values(STATUS)
    assert len(values) == len({value["event_id"] for value in values}) == len(sent)


async def test_after_a_day_it_is_given_up_and_its_address_forgotten(rows: Rows) -> None:
    event, kafka = (
        told(EventKind.UNSUBSCRIBED, provider_message_id="never", address="Gone@example.com"),
        Kafka(),
    )
    await work(rows, kafka, event)
    assert await suppressed(rows, "gone@example.com") == []
    await rows.execute(
        "UPDATE provider_events SET give_up_at = now(), retry_at = now() WHERE event_id = :id", id=event.event_id
    )
    await room(rows, kafka).look()
    found = await stored(rows, event)
    assert (found.delivery_id, found.pending, found.retry_at) == (None, None, None)
    assert await suppressed(rows, "gone@example.com") == [("", "unsubscribed")]  # of all: nobody knows of what


async def suppressed(rows: Rows, address: str) -> list[tuple[str, str]]:
    found = await rows.fetch("SELECT category, reason FROM unsubscribe_lists WHERE address = :a", a=address)
    return sorted((one.category, one.reason) for one in found)


async def test_an_unsubscribe_is_of_the_messages_category(rows: Rows) -> None:
    one = await a_sent(rows, category="offers")
    await work(rows, Kafka(), told(EventKind.UNSUBSCRIBED, delivery_id=one.delivery_id, address="a@offers.example"))
    assert await suppressed(rows, "a@offers.example") == [("offers", "unsubscribed")]
    assert (await row(rows, one)).status == "sent"
    await work(rows, Kafka(), told(EventKind.RESUBSCRIBED, delivery_id=one.delivery_id, address="a@offers.example"))
    assert await suppressed(rows, "a@offers.example") == []


async def test_stop_and_complaints_need_no_message(rows: Rows) -> None:
    stop = told(
        EventKind.UNSUBSCRIBED, provider="twilio", channel=Channel.SMS, address="+4915112345678", is_of_all=True
    )
    complaint = told(EventKind.COMPLAINED, provider_message_id="nobody-knows", address="spam@example.com")
    await work(rows, Kafka(), stop, complaint)
    assert await suppressed(rows, "+4915112345678") == [("", "opted_out")]
    assert await suppressed(rows, "spam@example.com") == [("", "complained")]
    found = await stored(rows, stop)
    assert (found.pending, found.retry_at) == (None, None)


async def test_of_one_batch_the_last_word_holds_whatever_its_place(rows: Rows) -> None:
    out: dict[str, Any] = {"kind": EventKind.UNSUBSCRIBED, "is_of_all": True}
    back: dict[str, Any] = {"kind": EventKind.RESUBSCRIBED, "is_of_all": True}
    later = AT + timedelta(minutes=1)
    for number, (first, second, expected) in enumerate([(out, back, []), (back, out, [("", "unsubscribed")])]):
        address = f"word-{number}@example.com"
        events = [told(address=address, **first), told(address=address, occurred_at=later, **second)]
        await work(rows, Kafka(), *reversed(events))
        assert await suppressed(rows, address) == expected


@pytest.mark.parametrize("is_of_all", [True, False])
async def test_of_one_message_the_last_word_holds_in_whatever_order_it_comes(rows: Rows, is_of_all: bool) -> None:
    one, address = await a_sent(rows, category="offers"), f"order-{is_of_all}@example.com".lower()
    known: dict[str, Any] = {"delivery_id": one.delivery_id, "address": address, "is_of_all": is_of_all}
    await work(rows, Kafka(), told(EventKind.RESUBSCRIBED, occurred_at=AT + timedelta(minutes=1), **known))
    await work(rows, Kafka(), told(EventKind.UNSUBSCRIBED, occurred_at=AT, **known))
    assert await suppressed(rows, address) == []
    await work(rows, Kafka(), told(EventKind.UNSUBSCRIBED, occurred_at=AT + timedelta(minutes=3), **known))
    await work(rows, Kafka(), told(EventKind.RESUBSCRIBED, occurred_at=AT + timedelta(minutes=2), **known))
    assert await suppressed(rows, address) == [("" if is_of_all else "offers", "unsubscribed")]


async def test_a_hard_bounce_suppresses_and_a_soft_one_is_final_for_its_message_only(rows: Rows) -> None:
    one, other = await a_sent(rows), await a_sent(rows)
    await work(
        rows,
        Kafka(),
        told(EventKind.BOUNCED, delivery_id=one.delivery_id, address="dead@example.com", is_permanent=True),
        told(EventKind.BOUNCED, delivery_id=other.delivery_id, address="full@example.com"),
    )
    assert [(await row(rows, each)).status for each in (one, other)] == ["bounced", "bounced"]
    assert await suppressed(rows, "dead@example.com") == [("", "bounced")]
    assert await suppressed(rows, "full@example.com") == []


@pytest.mark.parametrize("kind", [EventKind.ACCEPTED, EventKind.DEFERRED, EventKind.UNKNOWN])
async def test_what_says_nothing_of_the_end_changes_nothing(rows: Rows, kind: EventKind) -> None:
    one, kafka = await a_sent(rows), Kafka()
    event = told(kind, delivery_id=one.delivery_id, reason="421")
    await work(rows, kafka, event)
    assert (await row(rows, one)).status == "sent"
    assert (await stored(rows, event)).delivery_id == one.delivery_id
    assert kafka.told == []


async def test_poison_is_a_dead_letter_and_holds_up_nobody(rows: Rows) -> None:
    one, kafka = await a_sent(rows), Kafka()
    broken = [
        Incoming(PROVIDER_EVENTS, 0, 10**9 + number, 0, b"k", value)
        for number, value in enumerate([b"{", None, b"{}", b'{"event_id": 1}', b"\xff", b'{"event_id": null}'])
    ]
    good = heard(told(delivery_id=one.delivery_id))
    await work(rows, kafka, *broken[:3], good, *broken[3:])
    await work(rows, kafka, *broken)
    assert (await row(rows, one)).status == "delivered"
    letters = [record for record in kafka.told if record.topic == DEAD_LETTERS]
    assert [letter.value for letter in letters] == [record.value for record in broken]
    [headers] = [dict(letter.headers) for letter in letters[:1]]
    assert (headers["stage"], headers["error-class"]) == (b"provider_event", b"invalid_provider_event")


async def test_a_record_that_the_database_refuses_is_isolated(rows: Rows) -> None:
    """A time that Python knows and Postgres doesn't take is nothing an adapter makes; a constraint stands for it."""
    sent = [await a_sent(rows) for _ in range(7)]
    kafka = Kafka()
    events = [told(delivery_id=one.delivery_id) for one in sent]
    await rows.execute(
        f"ALTER TABLE provider_events ADD CONSTRAINT odd CHECK (event_id <> '{events[4].event_id}') NOT VALID"
    )
    try:
        await work(rows, kafka, *events)
    finally:
        await rows.execute("ALTER TABLE provider_events DROP CONSTRAINT odd")
    statuses = [(await row(rows, one)).status for one in sent]
    assert statuses == ["delivered"] * 4 + ["sent"] + ["delivered"] * 2
    [letter] = [record for record in kafka.told if record.topic == DEAD_LETTERS]
    assert dict(letter.headers)["error-class"] == b"database_refused"
    assert len(kafka.values(STATUS)) == 6


async def test_a_batch_costs_as_many_statements_as_a_small_one(rows: Rows) -> None:
    counted: list[str] = []
    engine = rows.engine.sync_engine

    def note(*arguments: Any) -> None:
        counted.append(arguments[2])

    async def statements(size: int) -> int:
        events = []
        for one in [await a_sent(rows) for _ in range(2)]:
            events += [
                told(kind, notification_id=one.notification_id, address=f"{n}@many.example", provider_message_id=f"{n}")
                for n, kind in zip(range(size // 2), itertools.cycle(EventKind), strict=False)
            ]
        counted.clear()
        listening.listen(engine, "before_cursor_execute", note)
        try:
            await work(rows, Kafka(), *events)
        finally:
            listening.remove(engine, "before_cursor_execute", note)
        return len(counted)

    few, many = await statements(40), await statements(1_000)
    assert few == many
    assert many <= 20


async def test_old_events_are_forgotten_and_waiting_ones_kept(rows: Rows) -> None:
    one = await a_sent(rows)
    old, waiting = told(delivery_id=one.delivery_id), told(provider_message_id="still-waits")
    await work(rows, Kafka(), old, waiting)
    await rows.execute(
        "UPDATE provider_events SET received_at = now() - interval '31 days' WHERE event_id = ANY(:ids)",
        ids=[old.event_id, waiting.event_id],
    )
    async with rows.engine.begin() as connection:
        assert await provider_events.forget_old(connection, limit=100) == 1
    left = await rows.fetch("SELECT event_id FROM provider_events")
    assert old.event_id not in {each.event_id for each in left}
    assert waiting.event_id in {each.event_id for each in left}
