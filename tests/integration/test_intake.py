"""Taking requests in over HTTP's back door: durable in Postgres first, then in Kafka or, that away, in the outbox."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.enums import Channel, Priority, Status
from models.errors import Conflict, Refused, Unavailable
from models.ids import from_idempotency_key
from models.requests import MAX_REQUEST_BYTES, NotificationRequest, parse
from models.session import create_engine
from streams.intake import Accepted, Intake, NotAccepted
from streams.records import Outgoing
from streams.topics import request_topic
from streams.waiting_room import outbox_room
from tests.fixtures.service import Ledger, Service, a_request


@dataclass
class Broker:
    """A publisher that is away, hangs, or works, as told; by the constructor, in the real one's place."""

    behind: Any
    mode: str = "works"
    tried: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.tried += records
        if self.mode == "away":
            raise Unavailable("kafka", "away")
        if self.mode == "hangs":
            await asyncio.sleep(3600)
        written: list[tuple[int, int]] = await self.behind.send_all(records)
        return written


@pytest.fixture(scope="module")
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service, ledger: Ledger) -> AsyncIterator[None]:
    only = {"requests-normal", "send-email-normal"}
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only=only):
        yield


@pytest.fixture
def broker(service: Service) -> Broker:
    return Broker(service.publisher)


@pytest.fixture
def intake(service: Service, broker: Broker) -> Intake:
    settings = service.settings.model_copy(update={"accept_deadline_seconds": 0.3})
    return Intake(engine=service.engine, publisher=broker, settings=settings)


@pytest.fixture
def leisurely(service: Service, broker: Broker) -> Intake:
    """One whose deadline no crowd meets on a busy machine."""
    settings = service.settings.model_copy(update={"accept_deadline_seconds": 10.0})
    return Intake(engine=service.engine, publisher=broker, settings=settings)


async def accept(intake: Intake, request: dict[str, Any], *, client: str = "tests") -> Accepted:
    return await intake.accept(parsed(request), client=client, priority=Priority.NORMAL)


def parsed(request: dict[str, Any]) -> NotificationRequest:
    return parse(NotificationRequest, orjson.dumps(request))


async def waiting(service: Service, user: str) -> list[Any]:
    return await service.fetch("SELECT * FROM message_queue WHERE key = :key ORDER BY id", key=user.encode())


async def test_an_accepted_request_is_sent(service: Service, intake: Intake, ledger: Ledger) -> None:
    request = a_request()
    accepted = await accept(intake, request)
    assert (accepted.notification_id, accepted.status) == (UUID(request["id"]), Status.ACCEPTED)
    assert not accepted.queued_in_outbox
    await service.until(accepted.notification_id, "sent")
    assert len(ledger.of(accepted.notification_id)) == 1
    assert await waiting(service, request["user_id"]) == []


@pytest.mark.parametrize("mode", ["away", "hangs"])
async def test_with_kafka_away_the_outbox_takes_over_and_the_room_publishes(
    service: Service, intake: Intake, broker: Broker, ledger: Ledger, mode: str
) -> None:
    broker.mode = mode
    request = a_request()
    started = asyncio.get_running_loop().time()
    accepted = await accept(intake, request)
    assert asyncio.get_running_loop().time() - started < 1.0
    assert (accepted.status, accepted.queued_in_outbox) == (Status.ACCEPTED, True)
    assert await service.status(accepted.notification_id) == "accepted"
    [row] = await waiting(service, request["user_id"])
    assert row.topic == request_topic(Priority.NORMAL)
    assert orjson.loads(bytes(row.value))["id"] == request["id"]
    assert row.headers == {"content-type": "application/json", "client-id": "tests"}

    room = outbox_room(service.engine, service.publisher)
    assert await room.move() == 1
    await service.until(accepted.notification_id, "sent")
    assert await waiting(service, request["user_id"]) == []
    assert len(ledger.of(accepted.notification_id)) == 1


async def test_a_repeat_while_accepted_publishes_again_and_sends_once(
    service: Service, intake: Intake, broker: Broker, ledger: Ledger
) -> None:
    broker.mode = "away"
    request = a_request()
    first, second = await accept(intake, request), await accept(intake, request)
    assert (first.notification_id, first.created_at) == (second.notification_id, second.created_at)
    assert len(await waiting(service, request["user_id"])) == 2
    broker.mode = "works"
    third = await accept(intake, request)
    assert not third.queued_in_outbox
    await service.until(first.notification_id, "sent")
    await outbox_room(service.engine, service.publisher).move()
    after = a_request(request["user_id"])
    await accept(intake, after)
    await service.until(UUID(after["id"]), "sent")
    assert len(ledger.of(first.notification_id)) == 1


async def test_a_repeat_when_sent_publishes_nothing(service: Service, intake: Intake, broker: Broker) -> None:
    request = a_request()
    accepted = await accept(intake, request)
    await service.until(accepted.notification_id, "sent")
    broker.tried.clear()
    assert (await accept(intake, request)).status is Status.SENT
    assert broker.tried == []


async def test_the_same_id_with_another_body_conflicts_and_changes_nothing(
    service: Service, intake: Intake, broker: Broker
) -> None:
    broker.mode = "away"
    request = a_request()
    accepted = await accept(intake, request)
    for other in ({"data": {"name": "Eve"}}, {"category": "news"}, {"recipient": {"email": "eve@example.com"}}):
        with pytest.raises(Conflict):
            await accept(intake, {**request, **other})
    assert len(await waiting(service, request["user_id"])) == 1
    assert await service.status(accepted.notification_id) == "accepted"


async def test_callers_at_once_get_one_id_and_one_of_two_bodies(
    service: Service, intake: Intake, broker: Broker, ledger: Ledger
) -> None:
    request = a_request()
    other = {**request, "data": {"name": "Eve"}}
    answers = await asyncio.gather(*(accept(intake, body) for body in [request, other] * 10), return_exceptions=True)
    accepted = [answer for answer in answers if isinstance(answer, Accepted)]
    conflicts = [answer for answer in answers if isinstance(answer, Conflict)]
    assert (len(accepted), len(conflicts)) == (10, 10)
    await service.until(UUID(request["id"]), "sent")
    assert len(ledger.of(UUID(request["id"]))) == 1


async def test_an_idempotency_key_is_the_clients_own(service: Service, intake: Intake) -> None:
    request = {**a_request(), "idempotency_key": "order-1"}
    del request["id"]
    mine, again = await accept(intake, request, client="a"), await accept(intake, request, client="a")
    theirs = await accept(intake, request, client="b")
    assert mine.notification_id == again.notification_id == from_idempotency_key("a", "order-1")
    assert theirs.notification_id == from_idempotency_key("b", "order-1") != mine.notification_id
    await service.until(mine.notification_id, "sent")
    await service.until(theirs.notification_id, "sent")


async def test_a_request_without_id_and_key_gets_a_new_id_each_time(intake: Intake) -> None:
    request = a_request()
    del request["id"]
    first, second = await accept(intake, request), await accept(intake, request)
    assert first.notification_id != second.notification_id
    assert first.notification_id.version == 7


async def test_a_cancellation_that_came_first_answers_cancelled(
    service: Service, intake: Intake, broker: Broker
) -> None:
    from models.repositories import cancellation

    request = a_request()
    async with service.engine.begin() as connection:
        await cancellation.cancel(connection, UUID(request["id"]), client="tests")
    assert (await accept(intake, request)).status is Status.CANCELLED
    assert broker.tried == []


async def test_with_postgres_away_it_says_so_and_names_the_id(service: Service) -> None:
    settings = service.settings.model_copy(update={"database_url": "postgresql+asyncpg://x:x@127.0.0.1:1/none"})
    engine = create_engine(settings, name="nowhere")
    request = a_request()
    try:
        with pytest.raises(NotAccepted) as refused:
            await accept(Intake(engine=engine, publisher=Broker(None), settings=settings), request)
    finally:
        await engine.dispose()
    assert refused.value.notification_id == UUID(request["id"])


async def test_what_grows_beyond_its_topic_is_refused_before_anything_is_stored(
    service: Service, intake: Intake, broker: Broker
) -> None:
    """`1e15` is four characters that become eighteen; Kafka would refuse the record for ever."""
    request = a_request()
    body = orjson.dumps(request)[:-1] + b',"data":{"name":"Ada","x":[' + b"1e15," * 100_000 + b"1]}}"
    assert len(body) < MAX_REQUEST_BYTES
    with pytest.raises(Refused):
        await intake.accept(parse(NotificationRequest, body), client="tests", priority=Priority.NORMAL)
    assert await service.status(UUID(request["id"])) is None
    assert await waiting(service, request["user_id"]) == []


async def test_many_at_once_are_each_sent_once(service: Service, leisurely: Intake, ledger: Ledger) -> None:
    requests = [a_request() for _ in range(300)]
    answers = await asyncio.gather(*(accept(leisurely, request) for request in requests))
    assert [answer.notification_id for answer in answers] == [UUID(request["id"]) for request in requests]
    for answer in answers:
        await service.until(answer.notification_id, "sent")
        assert len(ledger.of(answer.notification_id)) == 1


async def test_a_request_that_the_database_refuses_fails_nobody_else(service: Service, leisurely: Intake) -> None:
    """Callers share a transaction, not a fate."""
    rule = f"ck_{uuid.uuid4().hex[:8]}"
    await service.execute(f"ALTER TABLE notifications ADD CONSTRAINT {rule} CHECK (category <> 'refused')")
    try:
        requests = [a_request(category="refused" if number % 7 == 3 else "general") for number in range(40)]
        answers = await asyncio.gather(*(accept(leisurely, request) for request in requests), return_exceptions=True)
    finally:
        await service.execute(f"ALTER TABLE notifications DROP CONSTRAINT {rule}")
    for request, answer in zip(requests, answers, strict=True):
        assert isinstance(answer, Accepted) is (request["category"] == "general")


async def test_a_connection_that_a_restart_left_behind_is_no_failure(service: Service, broker: Broker) -> None:
    """The intake's connections are not looked at before use: one that died is found out by its use, and replaced."""
    rows = create_engine(service.settings, name="restarted", pool_size=3, check_before_use=False)
    try:
        intake = Intake(engine=rows, publisher=broker, settings=service.settings)
        await asyncio.gather(*(accept(intake, a_request()) for _ in range(5)))
        ended = await service.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'restarted'"
        )
        assert ended
        accepted = await accept(intake, a_request())
        assert (accepted.status, accepted.queued_in_outbox) == (Status.ACCEPTED, False)
    finally:
        await rows.dispose()
