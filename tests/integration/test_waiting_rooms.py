"""Records that wait in the database: in order, gone only when Kafka has them, and published when they are due."""

from __future__ import annotations

import asyncio
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from models.enums import Channel
from models.errors import Unavailable
from models.repositories import outbox
from models.repositories.outbox import Scheduled, Waiting
from streams.records import Outgoing
from streams.waiting_room import outbox_room, schedule_room
from tests.fixtures.records import RawClient, raw_client
from tests.fixtures.service import Ledger, Service, a_request

#: A topic that no lane reads.
TOPIC = "notification.send.push.low"


@dataclass
class Broker:
    """Writes down what it was given; fails as often as told, after having it or before."""

    failures: int = 0
    sent: list[Outgoing] = field(default_factory=list)
    pause_seconds: float = 0.0

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        await asyncio.sleep(self.pause_seconds)
        self.sent += records
        if self.failures:
            self.failures -= 1
            raise Unavailable("kafka", "away")
        return [(0, number) for number in range(len(records))]


@pytest.fixture(scope="module")
async def raw(service: Service) -> AsyncIterator[RawClient]:
    async with raw_client(service.settings) as client:
        yield client


@pytest.fixture(autouse=True)
async def empty(service: Service) -> None:
    await service.execute("TRUNCATE message_queue, notification_schedules")


async def queue(service: Service, count: int, *, keys: int = 5) -> list[bytes]:
    values = [f"{uuid.uuid4().hex[:6]}-{number}".encode() for number in range(count)]
    rows = [
        Waiting(topic=TOPIC, key=b"k-%d" % (number % keys), value=value, headers='{"client-id": "ü"}')
        for number, value in enumerate(values)
    ]
    async with service.engine.begin() as connection:
        await outbox.queue(connection, rows)
    return values


async def left(service: Service, table: str = "message_queue") -> int:
    [row] = await service.fetch(f"SELECT count(*) AS n FROM {table}")
    return int(row.n)


async def drain(service: Service, broker: Any) -> int:
    room, moved = outbox_room(service.engine, broker), 0
    while step := await room.move():
        moved += step
    return moved


async def test_the_outbox_reaches_kafka_as_it_was_written_and_in_order(service: Service, raw: RawClient) -> None:
    values = await queue(service, 1_200)
    assert await drain(service, service.publisher) == 1_200
    assert await left(service) == 0
    back: dict[bytes, list[bytes]] = defaultdict(list)
    for record in await raw.read(TOPIC):
        back[record.key].append(record.value)
        assert record.headers == (("client-id", "ü".encode()),)
    assert dict(back) == {b"k-%d" % key: values[key::5] for key in range(5)}


async def test_rows_go_only_when_kafka_has_them(service: Service) -> None:
    values = await queue(service, 30)
    broker = Broker(failures=2)
    room = outbox_room(service.engine, broker)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await room.move()
        assert await left(service) == 30
    assert await room.move() == 30
    assert await left(service) == 0
    # Published three times: ids make that harmless. Each time in order.
    assert [record.value for record in broker.sent] == values * 3


async def test_a_process_that_dies_while_it_publishes_leaves_all_rows(service: Service) -> None:
    await queue(service, 10)
    dying = asyncio.create_task(outbox_room(service.engine, Broker(pause_seconds=60)).move())
    await asyncio.sleep(0.2)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert await left(service) == 10
    assert await drain(service, Broker()) == 10


async def test_one_process_publishes_at_a_time(service: Service) -> None:
    """Else a slow one could put an older record of a key behind a newer one."""
    values = await queue(service, 900, keys=1)
    broker = Broker(pause_seconds=0.05)

    async def process() -> None:
        room = outbox_room(service.engine, broker)
        while await left(service):
            await room.move()
            await asyncio.sleep(0.01)

    await asyncio.gather(*(process() for _ in range(4)))
    assert [record.value for record in broker.sent] == values


async def test_the_room_goes_on_by_itself_when_kafka_is_back(service: Service) -> None:
    broker = Broker(failures=1)
    room = outbox_room(service.engine, broker)
    await room.start()
    try:
        await queue(service, 3)
        async with asyncio.timeout(10):
            while await left(service):
                await asyncio.sleep(0.05)
        assert not room.crashed
    finally:
        await room.stop()


async def schedule(service: Service, due_in: timedelta, *, id_: UUID | None = None) -> UUID:
    one = Scheduled(
        id=id_ or uuid.uuid4(), due_at=datetime.now(UTC) + due_in, topic=TOPIC, key=b"k", value=uuid.uuid4().bytes
    )
    async with service.engine.begin() as connection:
        await outbox.schedule(connection, [one])
    return one.id


async def test_a_schedule_is_published_when_due_and_not_before(service: Service) -> None:
    broker = Broker()
    room = schedule_room(service.engine, broker)
    later = await schedule(service, timedelta(seconds=0.8))
    await schedule(service, timedelta(days=1))
    assert await room.move() == 0
    due = await schedule(service, -timedelta(minutes=1))
    assert await room.move() == 1
    await asyncio.sleep(0.9)
    assert await room.move() == 1
    rows = await service.fetch("SELECT id FROM notification_schedules")
    assert {later, due}.isdisjoint({row.id for row in rows})
    assert len(rows) == 1


async def test_scheduling_twice_keeps_the_first(service: Service) -> None:
    same = await schedule(service, -timedelta(minutes=1))
    await schedule(service, timedelta(days=1), id_=same)
    assert await schedule_room(service.engine, Broker()).move() == 1
    assert await left(service, "notification_schedules") == 0


async def test_processes_share_the_schedules(service: Service) -> None:
    for _ in range(40):
        await schedule(service, -timedelta(minutes=1))
    broker = Broker(pause_seconds=0.05)
    await asyncio.gather(*(schedule_room(service.engine, broker).move() for _ in range(4)))
    assert len(broker.sent) == len({record.value for record in broker.sent}) == 40


async def test_a_send_at_far_away_waits_in_the_database_and_is_sent_when_due(service: Service) -> None:
    ledger = Ledger()
    only = {"requests-normal", "send-email-normal", "schedules"}
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only=only):
        far = (datetime.now(UTC) + timedelta(days=40)).isoformat().replace("+00:00", "Z")
        request, anonymous = a_request(send_at=far), a_request(send_at=far)
        del anonymous["id"]
        await service.publish(request)
        await service.publish(anonymous)
        notification = UUID(request["id"])
        await service.until(notification, "scheduled")
        async with asyncio.timeout(10):
            while await left(service, "notification_schedules") < 2:
                await asyncio.sleep(0.05)
        await service.publish(request)  # a repeat while it waits
        assert ledger.calls == []

        await service.execute("UPDATE notifications SET send_at = now() - interval '1 s' WHERE send_at IS NOT NULL")
        # The request says when; the room only brings it back. Until then it waits again.
        await service.execute("UPDATE notification_schedules SET due_at = now() - interval '1 s'")
        async with asyncio.timeout(10):
            while await left(service, "notification_schedules") < 2:
                await asyncio.sleep(0.05)
        assert await service.status(notification) == "scheduled"
        assert ledger.calls == []


async def test_a_schedule_comes_back_and_is_sent(service: Service) -> None:
    """Over an hour away by a hair, then time passes."""
    ledger = Ledger()
    only = {"requests-normal", "send-email-normal", "schedules"}
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only=only):
        soon = datetime.now(UTC) + timedelta(seconds=2)
        request = a_request(send_at=soon.isoformat().replace("+00:00", "Z"))
        async with service.engine.begin() as connection:
            import orjson

            await outbox.schedule(
                connection,
                [
                    Scheduled(
                        id=UUID(request["id"]),
                        due_at=soon,
                        topic="notification.requests.normal",
                        key=request["user_id"].encode(),
                        value=orjson.dumps(request),
                    )
                ],
            )
        await service.until(UUID(request["id"]), "sent")
        [call] = ledger.of(UUID(request["id"]))
        assert datetime.now(UTC) >= soon
        assert call.user_id == request["user_id"]
