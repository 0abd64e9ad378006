"""A push message over several devices, on a real database: what is repeated, what is forgotten, what a crash leaves."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import orjson
import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.repositories import audience
from models.requests import Device
from models.settings import RetryPolicy, Settings
from streams.channels.push import PushChain
from streams.people_versions import TakesMore, TellsOfChanges
from streams.providers.base import DeliveryResult, NotificationProvider, Reach
from streams.records import Incoming, Outgoing
from streams.topics import DEAD_LETTERS, FAILED, SENT, STATUS
from tests.fixtures.lane import RunningLane, a_lane
from tests.fixtures.rows import Rows, delivery, some_rows
from tests.fixtures.stack import Databases

SEND = "notification.send.push.normal"
NOW = datetime.now(UTC)
_OFFSETS = itertools.count()
SETTINGS = Settings(
    database_url="postgresql://none/none",
    provider_timeout_seconds=1,
    claim_grace_seconds=1,
    push_retry=RetryPolicy(max_attempts=3, base_seconds=5),
)


class Crash(Exception):
    """The process ends here."""


@dataclass
class Kafka:
    """Writes down what was told; with `crashes`, the process ends before any of it is."""

    crashes: bool = False
    told: list[Outgoing] = field(default_factory=list)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        if self.crashes and records:
            raise Crash
        self.told += records
        return [(0, next(_OFFSETS)) for _ in records]

    def count(self, topic: str) -> int:
        return sum(record.topic == topic for record in self.told)

    def statuses(self) -> list[str]:
        return [orjson.loads(record.value or b"")["status"] for record in self.told if record.topic == STATUS]

    @property
    def waiting(self) -> Outgoing:
        """The one that was put off."""
        [record] = [record for record in self.told if record.topic.startswith("notification.delay.")]
        return record


@dataclass
class Vendor(NotificationProvider):
    """Answers by the last word of a token; writes down whom it was asked for."""

    channel = Channel.PUSH
    dead_since: datetime | None = None
    asked: list[str] = field(default_factory=list)
    outcomes: dict[str, Outcome] = field(default_factory=lambda: {str(outcome): outcome for outcome in Outcome})

    async def send(self, delivery: Delivery) -> DeliveryResult:
        token = delivery.devices[0].token
        self.asked.append(token)
        outcome = self.outcomes[token.split(":")[-1]]
        return DeliveryResult(
            outcome=outcome,
            provider=self.name,
            provider_message_id=token if outcome is Outcome.SENT else None,
            reason=None if outcome is Outcome.SENT else str(outcome),
            dead_since=self.dead_since if outcome is Outcome.TARGET_DEAD else None,
            reach=Reach.ANSWERED,
        )


class Fcm(Vendor):
    name: ClassVar[str] = "fcm"


class Apns(Vendor):
    name: ClassVar[str] = "apns"


@dataclass
class Told(TellsOfChanges):
    """Writes down who changed, while it could still be undone."""

    users: list[str] = field(default_factory=list)

    @asynccontextmanager
    async def changing(self, *user_ids: str) -> AsyncIterator[TakesMore]:
        self.users += user_ids
        yield self

    async def also(self, *user_ids: str) -> None:
        self.users += user_ids


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


def lane(
    rows: Rows, kafka: Kafka, *providers: Vendor, people: Told | None = None
) -> AbstractAsyncContextManager[RunningLane]:
    chain = PushChain(providers, SETTINGS)
    return a_lane(rows.engine, kafka, settings=SETTINGS, channel=Channel.PUSH, chain=chain, people=people)


async def work(rows: Rows, kafka: Kafka, *providers: Vendor, record: Incoming, people: Told | None = None) -> None:
    async with lane(rows, kafka, *providers, people=people) as running:
        await running.work([record])


async def asked_for(rows: Rows, user: str, *tokens: str) -> Delivery:
    """A queued delivery to devices such as `fcm:1:sent`, registered an hour ago."""
    notification = await rows.queued(Channel.PUSH, user_id=user)
    devices = tuple(Device(platform=token.split(":")[0], token=f"{user}:{token}") for token in tokens)
    for device in devices:
        await rows.execute(
            "INSERT INTO devices (platform, token, user_id, registered_at) VALUES (:platform, :token, :user, :at)",
            platform=device.platform,
            token=device.token,
            user=user,
            at=NOW - timedelta(hours=1),
        )
    return delivery(notification, Channel.PUSH, user_id=user, to=None, devices=devices)


def record(of: Delivery, offset: int = 10) -> Incoming:
    return Incoming(SEND, 0, offset, 0, of.user_id.encode(), of.record_value())


def back(waiting: Outgoing, offset: int) -> Incoming:
    return Incoming(SEND, 0, offset, 0, waiting.key, waiting.value)


async def tokens(rows: Rows, user: str) -> set[str]:
    return {
        row.token.removeprefix(f"{user}:")
        for row in await rows.fetch("SELECT token FROM devices WHERE user_id = :user", user=user)
    }


async def logs(rows: Rows, of: Delivery) -> list[Any]:
    return [
        tuple(row)
        for row in await rows.fetch(
            "SELECT attempt, outcome, remaining_devices, reached_devices FROM delivery_logs "
            "WHERE delivery_id = :id ORDER BY attempt",
            id=of.delivery_id,
        )
    ]


async def test_one_takes_it_one_is_dead_and_one_is_tried_again(rows: Rows) -> None:
    fcm, apns, kafka, people = Fcm(), Apns(), Kafka(), Told()
    asked = await asked_for(rows, "three", "fcm:1:sent", "apns:2:target_dead", "fcm:3:retry")
    await work(rows, kafka, fcm, apns, record=record(asked), people=people)
    assert await logs(rows, asked) == [(1, "retry", 0b100, 1)]
    assert await rows.status(asked.notification_id) == "retrying"
    assert (await tokens(rows, "three"), people.users) == ({"fcm:1:sent", "fcm:3:retry"}, ["three"])
    following = Delivery.model_validate_json(kafka.waiting.value or b"")
    assert ([device.token for device in following.devices], following.reached) == (["three:fcm:3:retry"], 1)

    fcm.outcomes["retry"] = Outcome.SENT
    then = Kafka()
    await work(rows, then, fcm, apns, record=back(kafka.waiting, 11))
    assert fcm.asked == ["three:fcm:1:sent", "three:fcm:3:retry", "three:fcm:3:retry"], "who has it isn't asked again"
    assert (await rows.status(asked.notification_id), then.statuses(), then.count(SENT)) == ("sent", ["sent"], 1)


async def test_tries_run_out_for_one_device_and_the_message_was_sent(rows: Rows) -> None:
    fcm, kafka = Fcm(), Kafka()
    asked = await asked_for(rows, "runs-out", "fcm:1:sent", "fcm:2:retry")
    await work(rows, kafka, fcm, record=record(asked))
    for offset in (11, 12):
        following, kafka = back(kafka.waiting, offset), Kafka()
        await work(rows, kafka, fcm, record=following)
    assert [row[1:] for row in await logs(rows, asked)] == [
        ("retry", 0b10, 1),
        ("retry", 0b1, 0),
        ("sent", 0b1, 0),
    ]
    assert await rows.status(asked.notification_id) == "sent"
    assert (kafka.count(SENT), kafka.count(FAILED), kafka.count(DEAD_LETTERS)) == (1, 0, 0)


async def test_with_all_devices_dead_it_failed(rows: Rows) -> None:
    kafka = Kafka()
    asked = await asked_for(rows, "all-dead", "fcm:1:target_dead", "apns:2:target_dead")
    await work(rows, kafka, Fcm(), Apns(), record=record(asked))
    [row] = await rows.fetch(
        "SELECT status, reason FROM notification_deliveries WHERE delivery_id = :id", id=asked.delivery_id
    )
    assert (row.status, row.reason, await tokens(rows, "all-dead")) == ("failed", "no live device", set())
    assert (kafka.count(FAILED), kafka.count(DEAD_LETTERS)) == (1, 1)


@pytest.mark.parametrize(
    ("dead_since", "stays"),
    [
        (None, False),
        (NOW - timedelta(minutes=30), False),
        (NOW - timedelta(hours=2), True),
        (datetime.fromtimestamp(1500000000, UTC), True),
    ],
)
async def test_a_device_that_was_registered_after_its_end_is_alive(
    rows: Rows, dead_since: datetime | None, stays: bool
) -> None:
    user = f"again-{dead_since and dead_since.timestamp()}"
    people = Told()
    asked = await asked_for(rows, user, "apns:1:target_dead")
    await work(rows, Kafka(), Apns(dead_since=dead_since), record=record(asked), people=people)
    assert (await tokens(rows, user), people.users) == (({"apns:1:target_dead"}, []) if stays else (set(), [user]))
    assert await rows.status(asked.notification_id) == "failed"


async def test_a_dead_device_is_not_used_by_the_next_notification(rows: Rows) -> None:
    asked = await asked_for(rows, "next", "fcm:1:target_dead", "fcm:2:sent")
    await work(rows, Kafka(), Fcm(), record=record(asked))
    async with rows.engine.connect() as connection:
        person = (await audience.people(connection, ["next"]))["next"]
    assert [device.token for device in person.devices] == ["next:fcm:2:sent"]


@pytest.mark.parametrize("moment", ["before", "twice"])
async def test_a_crash_between_record_and_tell_repeats_the_effects_and_no_call(rows: Rows, moment: str) -> None:
    fcm, apns, kafka = Fcm(), Apns(), Kafka(crashes=moment == "before")
    asked = await asked_for(rows, f"crash-{moment}", "fcm:1:sent", "apns:2:target_dead", "fcm:3:retry")
    if kafka.crashes:
        with pytest.raises(Crash):
            await work(rows, kafka, fcm, apns, record=record(asked))
    else:
        await work(rows, kafka, fcm, apns, record=record(asked))
    calls = len(fcm.asked) + len(apns.asked)
    again = Kafka()
    await work(rows, again, fcm, apns, record=record(asked))
    assert (calls, len(fcm.asked) + len(apns.asked)) == (3, 3)
    following = Delivery.model_validate_json(again.waiting.value or b"")
    assert ([device.token for device in following.devices], following.reached, following.attempt) == (
        [f"crash-{moment}:fcm:3:retry"],
        1,
        2,
    )
    if not kafka.crashes:
        assert again.waiting == kafka.waiting


async def test_a_broken_platform_burns_no_try_and_loses_no_device(rows: Rows) -> None:
    fcm, apns, kafka = Fcm(), Apns(), Kafka()
    asked = await asked_for(rows, "broken", "apns:1:sent", "fcm:2:broken")
    await work(rows, kafka, fcm, apns, record=record(asked))
    assert await logs(rows, asked) == [(1, "broken", 0b10, 1)]
    following = Delivery.model_validate_json(kafka.waiting.value or b"")
    assert (following.tries, following.attempt, following.reached) == (0, 2, 1)
    fcm.outcomes["broken"] = Outcome.SENT
    await work(rows, then := Kafka(), fcm, apns, record=back(kafka.waiting, 11))
    assert (await rows.status(asked.notification_id), then.count(SENT), apns.asked) == (
        "sent",
        1,
        ["broken:apns:1:sent"],
    )


async def test_what_expires_after_it_reached_a_device_was_sent(rows: Rows) -> None:
    kafka = Kafka()
    asked = await asked_for(rows, "expires", "fcm:1:sent", "fcm:2:retry")
    await work(rows, kafka, Fcm(), record=record(asked))
    late = Delivery.model_validate_json(kafka.waiting.value or b"").model_copy(update={"expires_at": NOW})
    await work(rows, then := Kafka(), Fcm(), record=record(late, 11))
    assert (await rows.status(asked.notification_id), then.count(SENT), then.statuses()) == ("sent", 1, ["sent"])
