"""Dead letters on their way back: sent once however often they are replayed, and buried once when they fail again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Unavailable
from models.repositories import replays
from models.repositories.dead_letter_search import Wanted
from models.repositories.replays import Runner, State, StoredReplay
from streams.directory import FRESH_SECONDS
from streams.letters import LetterReader
from streams.providers.base import DeliveryResult
from streams.records import Outgoing
from streams.replay import Replayer, ask, summary
from streams.topics import DEAD_LETTERS
from tests.fixtures.records import RawClient, raw_client
from tests.fixtures.service import Ledger, Service, a_request

_LETTERS = "SELECT * FROM delivery_failures WHERE notification_id = :id ORDER BY generation, dlq_partition, dlq_offset"
_OF_USER = "SELECT id FROM notifications WHERE user_id = :u"


def refused(_: Delivery) -> DeliveryResult:
    return DeliveryResult(outcome=Outcome.PERMANENT, provider="ledger", reason="550 no")


@dataclass
class Refusing:
    """Refuses the notifications it is told to; takes the rest."""

    notifications: set[UUID] = field(default_factory=set)

    def __call__(self, delivery: Delivery) -> DeliveryResult:
        if delivery.notification_id in self.notifications:
            return refused(delivery)
        return DeliveryResult(outcome=Outcome.SENT, provider="ledger", provider_message_id="m-1")


@dataclass
class Dying:
    """A publisher whose process dies when Kafka has the records, so many times."""

    service: Service
    deaths: int = 1
    written: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        places = await self.service.publisher.send_all(records)
        self.written += records
        if self.deaths:
            self.deaths -= 1
            raise Unavailable("kafka", "the process died here")
        return places


@pytest.fixture(scope="module")
async def refusing() -> Refusing:
    return Refusing()


@pytest.fixture(scope="module")
async def ledger(refusing: Refusing) -> Ledger:
    return Ledger(answer=refusing)


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service, ledger: Ledger) -> AsyncIterator[None]:
    async with service.worker(providers={Channel.EMAIL: (ledger,)}):
        yield


@pytest.fixture(scope="module")
async def raw(service: Service) -> AsyncIterator[RawClient]:
    async with raw_client(service.settings) as client:
        yield client


@pytest.fixture
async def reader(service: Service) -> AsyncIterator[LetterReader]:
    reader = LetterReader(service.settings)
    yield reader
    await reader.stop()


@pytest.fixture
def replayer(service: Service, reader: LetterReader) -> Replayer:
    return Replayer(engine=service.engine, publisher=service.publisher, reader=reader)


async def asked_for(service: Service, wanted: Wanted, *, rate: int = 10_000, force: bool = False) -> UUID:
    async with service.engine.begin() as connection:
        return await ask(
            connection,
            wanted,
            who="tests",
            reason="a test",
            rate=rate,
            force=force,
            runner=Runner.COMMAND,
            matched=(await summary(connection, wanted)).matched,
        )


async def done(service: Service, replayer: Replayer, wanted: Wanted, **options: Any) -> StoredReplay:
    """Replays to the end."""
    return await finished(service, replayer, await asked_for(service, wanted, **options))


async def finished(service: Service, replayer: Replayer, replay_id: UUID) -> StoredReplay:
    async for _ in replayer.run(replay_id, sleep=asyncio.sleep):
        pass
    async with service.engine.connect() as connection:
        found = await replays.get(connection, replay_id)
    assert found is not None
    return found


async def failed(service: Service, refusing: Refusing, **fields: Any) -> UUID:
    """A notification whose delivery the provider refused, with its letter in the index."""
    request = a_request(**fields)
    notification = UUID(request["id"])
    refusing.notifications.add(notification)
    await service.publish(request)
    await service.until(notification, "failed")
    await letters(service, notification, count=1)
    refusing.notifications.discard(notification)
    return notification


async def letters(service: Service, notification: UUID, *, count: int) -> list[Any]:
    async with asyncio.timeout(15):
        while len(rows := await service.fetch(_LETTERS, id=notification)) < count:
            await asyncio.sleep(0.05)
    return rows


async def quiet(service: Service, raw: RawClient) -> None:
    """Waits until the lanes that replays go to have done all that they were given."""
    await raw.until_done("requests-normal", "notification.requests.normal")
    await raw.until_done("send-email-normal", "notification.send.email.normal")


async def test_a_failed_delivery_is_sent_in_the_next_generation(
    service: Service, refusing: Refusing, ledger: Ledger, replayer: Replayer
) -> None:
    notification = await failed(service, refusing)
    told = await done(service, replayer, Wanted(notification_id=notification))
    assert (told.state, told.matched, told.replayed, told.skipped) == (State.DONE, 1, 1, {})
    await service.until(notification, "sent")
    first, second = ledger.of(notification)
    assert (first.generation, second.generation, second.attempt) == (0, 1, 1)
    assert second.content == first.content
    [row] = await service.fetch(_LETTERS, id=notification)
    assert row.replay_id == told.id


async def test_replayed_twice_it_is_sent_once(
    service: Service, refusing: Refusing, ledger: Ledger, replayer: Replayer, raw: RawClient
) -> None:
    notification = await failed(service, refusing)
    await done(service, replayer, Wanted(notification_id=notification))
    await service.until(notification, "sent")
    again = await done(service, replayer, Wanted(notification_id=notification))
    assert (again.replayed, again.skipped) == (0, {"already_replayed": 1})
    await quiet(service, raw)
    assert len(ledger.of(notification)) == 2


async def test_two_replays_at_once_send_once(
    service: Service, refusing: Refusing, ledger: Ledger, replayer: Replayer, raw: RawClient
) -> None:
    notifications = [await failed(service, refusing, category="at_once") for _ in range(5)]
    ids = [row.id for one in notifications for row in await service.fetch(_LETTERS, id=one)]
    wanted = Wanted(ids=tuple(ids))
    other_reader = LetterReader(service.settings)
    other = Replayer(engine=service.engine, publisher=service.publisher, reader=other_reader)
    asked = [await asked_for(service, wanted) for _ in range(2)]
    both = await asyncio.gather(finished(service, replayer, asked[0]), finished(service, other, asked[1]))
    await other_reader.stop()
    assert sorted(one.replayed + sum(one.skipped.values()) for one in both) == [5, 5]
    assert sum(one.replayed for one in both) == 5
    for notification in notifications:
        await service.until(notification, "sent")
    await quiet(service, raw)
    assert [len(ledger.of(notification)) for notification in notifications] == [2] * 5


async def test_a_crash_when_kafka_has_the_records_sends_once(
    service: Service, refusing: Refusing, ledger: Ledger, reader: LetterReader, raw: RawClient
) -> None:
    notification = await failed(service, refusing)
    publisher = Dying(service)
    dying = Replayer(engine=service.engine, publisher=publisher, reader=reader)
    replay_id = await asked_for(service, Wanted(notification_id=notification))
    with pytest.raises(Unavailable):
        await dying.step(replay_id)
    [row] = await service.fetch(_LETTERS, id=notification)
    assert row.replayed_at is None
    await service.until(notification, "sent")  # the lanes have it already

    told = await finished(service, dying, replay_id)
    assert told.state is State.DONE
    await quiet(service, raw)
    assert len(ledger.of(notification)) == 2
    assert await service.status(notification) == "sent"


async def test_a_crash_before_the_lanes_have_it_writes_the_same_record_again(
    service: Service, refusing: Refusing, reader: LetterReader
) -> None:
    notification = await failed(service, refusing, channel="email")
    publisher = Dying(service)
    dying = Replayer(engine=service.engine, publisher=_Unsent(publisher), reader=reader)
    replay_id = await asked_for(service, Wanted(notification_id=notification))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await dying.step(replay_id)
    sent = [record for record in publisher.written if record.topic.startswith("notification.send.")]
    assert len(sent) == 2
    assert sent[0] == sent[1]


@dataclass
class _Unsent:
    """Keeps the records that it should have sent, and dies."""

    kept: Dying

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.kept.written += records
        raise Unavailable("kafka", "away")


async def test_what_fails_again_is_one_letter_more_and_no_loop(
    service: Service, refusing: Refusing, ledger: Ledger, replayer: Replayer, raw: RawClient
) -> None:
    notification = await failed(service, refusing)
    refusing.notifications.add(notification)
    wanted = Wanted(notification_id=notification)
    await done(service, replayer, wanted)
    rows = await letters(service, notification, count=2)
    assert [row.generation for row in rows] == [0, 1]
    await quiet(service, raw)
    assert len(await service.fetch(_LETTERS, id=notification)) == 2

    again = await done(service, replayer, wanted)
    assert (again.replayed, again.skipped) == (1, {"already_replayed": 1})
    rows = await letters(service, notification, count=3)
    assert [row.generation for row in rows] == [0, 1, 2]
    assert [(call.generation, call.attempt) for call in ledger.of(notification)] == [(0, 1), (1, 1), (2, 1)]
    assert await service.until(notification, "failed") == "failed"


async def test_a_letter_that_was_replayed_too_often_needs_force(
    service: Service, refusing: Refusing, ledger: Ledger, replayer: Replayer
) -> None:
    notification = await failed(service, refusing)
    refusing.notifications.add(notification)
    wanted = Wanted(notification_id=notification)
    for number in range(3):
        await done(service, replayer, wanted)
        await letters(service, notification, count=number + 2)
    async with service.engine.connect() as connection:
        counted = await summary(connection, wanted)
    assert counted.matched == 4
    assert counted.skipped(force=False) == {"already_replayed": 3, "too_often": 1}
    assert (counted.to_replay(force=False), counted.to_replay(force=True)) == (0, 1)
    ended = await done(service, replayer, wanted)
    assert (ended.replayed, ended.skipped) == (0, {"already_replayed": 3, "too_often": 1})
    refusing.notifications.discard(notification)
    forced = await done(service, replayer, wanted, force=True)
    assert forced.replayed == 1
    await service.until(notification, "sent")
    assert ledger.of(notification)[-1].generation == 4


async def test_the_rate_holds(service: Service, refusing: Refusing, replayer: Replayer) -> None:
    notifications = [await failed(service, refusing) for _ in range(6)]
    ids = [row.id for one in notifications for row in await service.fetch(_LETTERS, id=one)]
    started = time.monotonic()
    told = await done(service, replayer, Wanted(ids=tuple(ids)), rate=4)
    assert told.replayed == 6
    assert time.monotonic() - started >= 5 / 4 - 0.25


async def test_cancelled_meanwhile_wins(
    service: Service, refusing: Refusing, ledger: Ledger, replayer: Replayer, raw: RawClient
) -> None:
    notification = await failed(service, refusing)
    await service.execute(
        "UPDATE notification_deliveries SET status = 'cancelled' WHERE notification_id = :id", id=notification
    )
    told = await done(service, replayer, Wanted(notification_id=notification))
    assert told.skipped == {"cancelled": 1}
    await quiet(service, raw)
    assert len(ledger.of(notification)) == 1


async def test_a_letter_past_retention_is_said_so_and_remembered(
    service: Service, refusing: Refusing, replayer: Replayer
) -> None:
    notification = await failed(service, refusing)
    await service.execute(
        "UPDATE delivery_failures SET id = '1-' || 900000 + dlq_offset WHERE notification_id = :id", id=notification
    )
    told = await done(service, replayer, Wanted(notification_id=notification))
    assert told.skipped == {"past_retention": 1}
    [row] = await service.fetch(_LETTERS, id=notification)
    assert row.unreplayable == "past_retention"


async def test_poison_fails_again_as_one_letter(service: Service, replayer: Replayer, raw: RawClient) -> None:
    poison = f"not json {time.time_ns()}".encode()
    written = await raw.put("notification.requests.normal", poison)
    where = (
        "SELECT * FROM delivery_failures WHERE source_topic = :topic AND source_partition = :p AND source_offset = :o"
    )
    place = {"topic": written.topic, "p": written.partition, "o": written.offset}
    async with asyncio.timeout(15):
        while not (rows := await service.fetch(where, **place)):
            await asyncio.sleep(0.05)
    before = await service.fetch("SELECT id FROM delivery_failures")
    told = await done(service, replayer, Wanted(ids=(rows[0].id,)))
    assert told.replayed == 1
    async with asyncio.timeout(15):
        while len(after := await service.fetch("SELECT id, generation FROM delivery_failures")) == len(before):
            await asyncio.sleep(0.05)
    await quiet(service, raw)
    after = await service.fetch("SELECT id, generation FROM delivery_failures")
    assert len(after) == len(before) + 1
    copies = [letter for letter in await service.records(DEAD_LETTERS, count=1) if letter.value == poison]
    assert len(copies) <= 2


async def published(service: Service, key: str, channel: str, **parts: str) -> None:
    await service.execute(
        "INSERT INTO notification_templates (key, locale, version, channel, parts, variables, created_by, created_at,"
        " published_at) VALUES (:key, 'en', 1, :channel, CAST(:parts AS jsonb), '[]', 'tests', now(), now())",
        key=key,
        channel=channel,
        parts=orjson.dumps(parts).decode(),
    )


def of_template(key: str, **fields: Any) -> dict[str, Any]:
    request = a_request(template_id=key, **fields)
    del request["content"]
    return request


async def test_a_request_is_sent_when_its_template_is_there(
    service: Service, ledger: Ledger, replayer: Replayer
) -> None:
    key = f"late-{uuid4().hex[:8]}"
    request = of_template(key)
    notification = UUID(request["id"])
    await service.publish(request)
    await service.until(notification, "failed")
    [letter] = await letters(service, notification, count=1)
    assert letter.error_class == "template_unknown"

    await published(service, key, "email", subject="Late", text="but here")
    told = await done(service, replayer, Wanted(notification_id=notification))
    assert told.replayed == 1
    await service.until(notification, "sent")
    [call] = ledger.of(notification)
    assert (call.generation, call.attempt, call.content["text"]) == (1, 1, "but here")
    assert len(await service.fetch(_LETTERS, id=notification)) == 1


async def test_a_request_that_fails_again_is_one_letter_more_however_often_its_record_came(
    service: Service, reader: LetterReader, raw: RawClient
) -> None:
    request = of_template(f"never-{uuid4().hex[:8]}")
    notification = UUID(request["id"])
    await service.publish(request)
    await letters(service, notification, count=1)
    dying = Replayer(engine=service.engine, publisher=Dying(service, deaths=2), reader=reader)
    replay_id = await asked_for(service, Wanted(notification_id=notification))
    for _ in range(2):
        with pytest.raises(Unavailable):
            await dying.step(replay_id)
    await finished(service, dying, replay_id)
    rows = await letters(service, notification, count=2)
    await quiet(service, raw)
    rows = await service.fetch(_LETTERS, id=notification)
    assert [(row.generation, row.error_class) for row in rows] == [(0, "template_unknown"), (1, "template_unknown")]
    assert await service.status(notification) == "failed"


async def test_of_two_channels_only_the_failed_one_is_tried_again(
    service: Service, ledger: Ledger, replayer: Replayer
) -> None:
    key = f"half-{uuid4().hex[:8]}"
    await published(service, key, "email", subject="Half", text="of it")
    request = of_template(key, channels=["email", "in_app"])
    del request["channel"]
    notification = UUID(request["id"])
    await service.publish(request)
    await service.until(notification, "sent")
    [letter] = await letters(service, notification, count=1)
    assert letter.error_class == "template_lacks_channel"

    await published(service, key, "in_app", title="Whole", body="now")
    await asyncio.sleep(FRESH_SECONDS + 0.1)  # no lane uses what it knew before for longer
    await done(service, replayer, Wanted(notification_id=notification))
    async with asyncio.timeout(15):
        while not await service.fetch("SELECT 1 FROM inbox WHERE notification_id = :id", id=notification):
            await asyncio.sleep(0.05)
    await service.until(notification, "sent")
    rows = await service.fetch(
        "SELECT channel, status, generation FROM notification_deliveries WHERE notification_id = :id ORDER BY 1",
        id=notification,
    )
    assert [tuple(row) for row in rows] == [("email", "sent", 0), ("in_app", "sent", 1)]
    assert len(ledger.of(notification)) == 1


async def test_a_request_without_id_goes_on_under_the_one_that_it_had(
    service: Service, ledger: Ledger, replayer: Replayer
) -> None:
    key = f"late-{uuid4().hex[:8]}"
    request = of_template(key)
    del request["id"]
    await service.publish(request)
    async with asyncio.timeout(15):
        while not (
            rows := await service.fetch("SELECT id FROM notifications WHERE user_id = :u", u=request["user_id"])
        ):
            await asyncio.sleep(0.05)
    notification = rows[0].id
    await letters(service, notification, count=1)
    await published(service, key, "email", subject="Late", text="but here")
    await done(service, replayer, Wanted(notification_id=notification))
    await service.until(notification, "sent")
    assert len(ledger.of(notification)) == 1
    assert len(await service.fetch(_OF_USER, u=request["user_id"])) == 1


async def test_a_request_without_channel_is_sent_when_its_category_has_one(
    service: Service, ledger: Ledger, replayer: Replayer
) -> None:
    category = f"c-{uuid4().hex[:8]}"
    request = a_request(category=category)
    del request["channel"]
    notification = UUID(request["id"])
    await service.publish(request)
    await service.until(notification, "failed")
    await letters(service, notification, count=1)
    await service.execute(
        "INSERT INTO notification_categories"
        " (key, transactional, default_channels, quiet_hours, created_at, updated_at)"
        " VALUES (:key, false, '[\"email\"]', 'defer', now(), now())",
        key=category,
    )
    await asyncio.sleep(FRESH_SECONDS + 0.1)  # no lane uses what it knew before for longer
    await done(service, replayer, Wanted(notification_id=notification))
    await service.until(notification, "sent", within_seconds=15)
    [call] = ledger.of(notification)
    assert call.generation == 1


async def test_a_running_replay_takes_none_of_the_letters_that_it_causes(
    service: Service, refusing: Refusing, replayer: Replayer, raw: RawClient
) -> None:
    since = datetime.now(UTC)
    notifications = [await failed(service, refusing) for _ in range(4)]
    refusing.notifications.update(notifications)
    told = await done(service, replayer, Wanted(since=since, error_class="permanent"), rate=2)
    assert (told.matched, told.replayed, told.skipped) == (4, 4, {})
    for notification in notifications:
        await letters(service, notification, count=2)
    await quiet(service, raw)
    assert [len(await service.fetch(_LETTERS, id=one)) for one in notifications] == [2] * 4


async def test_what_a_killed_command_left_is_ended(service: Service) -> None:
    left = await asked_for(service, Wanted(ids=("0-0",)))
    fresh = await asked_for(service, Wanted(ids=("0-0",)))
    await service.execute(
        "UPDATE dead_letter_replays SET updated_at = now() - interval '1 hour', next_at = now() - interval '1 hour'"
        " WHERE id = :id",
        id=left,
    )
    async with service.engine.begin() as connection:
        await replays.end_abandoned(connection, after=timedelta(minutes=5))
        ended, open_ = await replays.get(connection, left), await replays.get(connection, fresh)
    assert ended is not None
    assert open_ is not None
    assert (ended.state, open_.state) == (State.STOPPED, State.WAITING)


async def test_a_bad_contact_goes_nowhere(service: Service, replayer: Replayer, raw: RawClient) -> None:
    await raw.put("user.contacts", b"no contact")
    async with asyncio.timeout(15):
        while not (rows := await service.fetch("SELECT id FROM delivery_failures WHERE stage = 'contact'")):
            await asyncio.sleep(0.05)
    wanted = Wanted(stage="contact")
    async with service.engine.connect() as connection:
        counted = await summary(connection, wanted)
    assert (counted.to_replay(force=True), counted.skipped(force=True)) == (0, {"no_topic": 1})
    told = await done(service, replayer, wanted)
    assert told.skipped == {"no_topic": len(rows)}
