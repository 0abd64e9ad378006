"""What a request lane makes of a replayed request: what failed is planned anew, once, whatever else comes with it."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.enums import Channel, Priority, Status
from models.settings import Settings
from streams.agents.requests import RequestStage
from streams.directory import Directory
from streams.domain.replays import Replay, plan
from streams.domain.templates import Renderer
from streams.rate_limits import Reservation
from streams.records import Headers, Incoming, Outgoing
from streams.topics import DEAD_LETTERS
from tests.fixtures.rows import Rows, change, some_rows
from tests.fixtures.service import a_request
from tests.fixtures.stack import Databases

REQUESTS = "notification.requests.normal"
SEND = "notification.send.email.normal"
_OFFSETS = itertools.count()


class Crash(Exception):
    """The process ends here."""


@dataclass
class Kafka:
    """Writes down what was told; with `crashes`, the process ends when it has been."""

    crashes: bool = False
    told: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.told += records
        if self.crashes:
            raise Crash
        return [(0, next(_OFFSETS)) for _ in records]

    def on(self, prefix: str) -> list[Outgoing]:
        return [record for record in self.told if record.topic.startswith(prefix)]


@dataclass
class Limits:
    """Limits that make everybody wait so long."""

    wait_seconds: float = 0.0

    def is_limited(self, category: str) -> bool:
        return category == "news"

    async def reserve(self, asked: Sequence[Reservation]) -> list[float]:
        return [self.wait_seconds] * len(asked)


class Lane:
    """A request lane of normal priority, its database and its Kafka."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.kafka = Kafka()
        self.limits = Limits()
        self.ahead = timedelta()

    async def work(self, *records: Incoming) -> None:
        stage = RequestStage(
            engine=self.rows.engine,
            publisher=self.kafka,
            renderer=Renderer(),
            directory=Directory(),
            settings=Settings(database_url="postgresql://none/none"),
            cluster_id="c-1",
            limits=self.limits,
            clock=lambda: datetime.now(UTC) + self.ahead,
        )
        await stage(Priority.NORMAL, records)

    def replayed(self) -> Incoming:
        """The newest dead letter, as a replay brings it back."""
        letter = self.kafka.on(DEAD_LETTERS)[-1]
        back = plan(Incoming(DEAD_LETTERS, 0, next(_OFFSETS), 1_000, letter.key, letter.value, letter.headers))
        assert isinstance(back, Replay)
        return incoming(back.record)

    def generations(self) -> list[int]:
        """Those of all deliveries that were handed on."""
        return [orjson.loads(record.value or b"").get("generation", 0) for record in self.kafka.on(SEND)]


def incoming(record: Outgoing, *, without: Sequence[str] = ()) -> Incoming:
    headers: Headers = tuple(pair for pair in record.headers if pair[0] not in without)
    return Incoming(REQUESTS, 0, next(_OFFSETS), 1_000, record.key, record.value, headers)


def asked(request: dict[str, Any], **headers: str) -> Incoming:
    pairs = tuple((name.replace("_", "-"), value.encode()) for name, value in headers.items())
    return Incoming(REQUESTS, 0, next(_OFFSETS), 1_000, request["user_id"].encode(), orjson.dumps(request), pairs)


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


@pytest.fixture
def lane(rows: Rows) -> Lane:
    return Lane(rows)


async def without_address(lane: Lane, **fields: Any) -> dict[str, Any]:
    """A request that failed for want of an address, which is known by now."""
    request = a_request(**fields)
    del request["recipient"]
    await lane.work(asked(request))
    assert await lane.rows.status(UUID(request["id"])) == "failed"
    await lane.rows.execute(
        "INSERT INTO contacts (user_id, email, updated_at) VALUES (:user, 'ada@example.com', now())",
        user=request["user_id"],
    )
    return request


async def test_it_is_planned_anew_and_a_second_copy_does_nothing(lane: Lane) -> None:
    request = await without_address(lane)
    back = lane.replayed()
    await lane.work(back)
    assert await lane.rows.status(UUID(request["id"])) == "queued"
    assert lane.generations() == [1]
    told = len(lane.kafka.told)
    await lane.work(back)
    assert len(lane.kafka.told) == told


async def test_a_crash_when_kafka_has_it_repeats_the_same(lane: Lane) -> None:
    await without_address(lane)
    back = lane.replayed()
    lane.kafka.crashes = True
    with pytest.raises(Crash):
        await lane.work(back)
    lane.kafka.crashes = False
    await lane.work(back)
    assert lane.generations() == [1, 1]
    first, second = lane.kafka.on(SEND)
    assert first == second


async def test_a_plain_repeat_in_its_batch_does_not_hide_it(lane: Lane) -> None:
    request = await without_address(lane)
    await lane.work(asked(request), lane.replayed(), asked(request))
    assert lane.generations() == [1]


async def test_over_a_limit_it_waits_for_its_slot_and_is_still_a_replay(lane: Lane) -> None:
    request = await without_address(lane, category="news")
    lane.limits.wait_seconds = 20.0
    await lane.work(lane.replayed())
    assert lane.generations() == []
    [waiting] = lane.kafka.on("notification.delay.")
    lane.ahead = timedelta(seconds=30)
    await lane.work(incoming(waiting, without=("due-at", "return-topic")))
    assert lane.generations() == [1]
    assert await lane.rows.status(UUID(request["id"])) == "queued"
    assert len(lane.kafka.on("notification.delay.")) == 1


async def test_what_fails_again_is_a_failure_of_that_generation(lane: Lane) -> None:
    request = a_request(data={})
    await lane.work(asked(request))
    for generation in (1, 2):
        back = lane.replayed()
        await lane.work(back)
        await lane.work(back)
        letters = lane.kafka.on(DEAD_LETTERS)
        assert len(letters) == generation + 1
        assert dict(letters[-1].headers)["replay-generation"] == str(generation).encode()
    [row] = await lane.rows.fetch(
        "SELECT status, generation FROM notification_deliveries WHERE notification_id = :id", id=UUID(request["id"])
    )
    assert tuple(row) == ("failed", 2)


@pytest.mark.parametrize("said", ["2", "7", "10000", "99999", "-1", "x", ""])
async def test_a_number_that_no_replay_gave_counts_for_nothing(lane: Lane, said: str) -> None:
    request = await without_address(lane)
    await lane.work(asked(request, replay_generation=said))
    assert lane.generations() == []


async def test_what_was_sent_stays(lane: Lane) -> None:
    request = a_request()
    await lane.work(asked(request))
    await lane.rows.advance(change(UUID(request["id"]), Channel.EMAIL, Status.SENT, attempts=1))
    await lane.work(asked(request, replay_generation="1"))
    assert lane.generations() == [0]
    assert await lane.rows.status(UUID(request["id"])) == "sent"


async def test_another_body_under_its_id_is_a_conflict_as_ever(lane: Lane) -> None:
    request = await without_address(lane)
    await lane.work(asked({**request, "data": {"name": "Eve"}}, replay_generation="1"))
    assert lane.generations() == []
    assert dict(lane.kafka.on(DEAD_LETTERS)[-1].headers)["error-class"] == b"id_conflict"


async def test_a_new_request_may_say_what_it_likes(lane: Lane) -> None:
    await lane.work(asked(a_request(), replay_generation="1"))
    assert lane.generations() == [0]
