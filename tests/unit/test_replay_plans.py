"""What replaying a dead letter means: letter to record, or why not."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.deliveries import Delivery
from models.enums import Channel, Stage, Status
from models.replays import Stands
from models.requests import parse
from models.status import RANK
from streams.dead_letters import Burial
from streams.domain.replays import (
    LAST_GENERATION,
    REQUEST_TOPICS,
    SEND_TOPICS,
    Again,
    Replay,
    WhyNot,
    generation_of,
    may_again,
    plan,
    replay_headers,
)
from streams.producer import check_size
from streams.records import Headers, Incoming
from streams.topics import CATALOGUE, DEAD_LETTERS

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOTIFICATION = UUID(int=7)
REQUEST = b'{"id": "019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071", "user_id": "u-1"}'


def delivery(**fields: Any) -> Delivery:
    return Delivery(
        **{
            "delivery_id": UUID(int=8),
            "notification_id": NOTIFICATION,
            "user_id": "u-1",
            "channel": Channel.EMAIL,
            "category": "general",
            "to": "ada@example.com",
            "content": {"text": "Hello"},
            "created_at": NOW,
            **fields,
        }
    )


def letter(
    value: bytes | None,
    *,
    topic: str = "notification.requests.normal",
    headers: Headers = (),
    known: bool = True,
    stage: Stage = Stage.REQUEST,
    offset: int = 17,
) -> Incoming:
    """A record's dead letter as it is read back."""
    record = Incoming(topic, 2, 42, 1_767_268_800_000, b"u-1", value, headers)
    buried = Burial(
        record=record,
        stage=stage,
        error_class="x",
        error_reason="y",
        failed_at=NOW,
        notification_id=NOTIFICATION if known else None,
    ).outgoing()
    return Incoming(DEAD_LETTERS, 3, offset, 1_767_268_801_000, buried.key, buried.value, buried.headers)


def planned(dead: Incoming, **options: Any) -> Replay:
    found = plan(dead, **options)
    assert isinstance(found, Replay), found
    return found


def test_a_delivery_goes_back_in_the_next_generation_with_its_attempts_counted_anew() -> None:
    failed = delivery(attempt=6, tries=5, ambiguous=1, generation=1)
    replay = planned(letter(failed.record_value(), topic="notification.send.email.high", stage=Stage.DELIVERY))
    again = parse(Delivery, replay.record.value or b"")
    assert replay.record.topic == "notification.send.email.high"
    assert replay.record.key == b"u-1"
    assert again == replay.delivery
    assert (again.generation, again.attempt, again.tries, again.ambiguous) == (2, 1, 0, 0)
    assert again.model_copy(update={"generation": 1, "attempt": 6, "tries": 5, "ambiguous": 1}) == failed


def test_a_request_goes_back_unchanged_with_the_number_of_its_replay() -> None:
    own: Headers = (("content-type", b"application/json"), ("client-id", b"shop"), ("traceparent", b"t"))
    replay = planned(letter(REQUEST, headers=own))
    assert (replay.record.topic, replay.record.value) == ("notification.requests.normal", REQUEST)
    assert replay.record.headers == (*own, ("replay-generation", b"1"), ("replay-of", b"3-17"))


def test_what_fails_again_counts_on_and_carries_no_old_headers() -> None:
    first = planned(letter(REQUEST))
    second = letter(first.record.value, headers=first.record.headers, offset=99)
    assert generation_of(second) == 1
    replay = planned(second)
    names = [name for name, _ in replay.record.headers]
    assert len(names) == len(set(names))
    assert dict(replay.record.headers)["replay-generation"] == b"2"
    assert dict(replay.record.headers)["replay-of"] == b"3-99"


def test_the_index_knows_how_often() -> None:
    failed = Incoming("notification.send.email.low", 0, 1, 0, b"u-1", delivery(generation=3).record_value())
    buried = Burial(record=failed, stage=Stage.DELIVERY, error_class="x", error_reason="y", failed_at=NOW)
    assert buried.indexed(3, 18).generation == 3


@pytest.mark.parametrize(
    ("value", "known", "headers", "is_named"),
    [
        (REQUEST, True, (), False),
        (b'{"user_id": "u-1"}', True, (), True),
        (b'{"user_id": "u-1"}', False, (), True),
        (b'{"user_id": "u-1", "idempotency_key": "k"}', True, (), True),
        (b'{"user_id": "u-1", "idempotency_key": "k"}', False, (), False),
        (b"\xff no json", False, (), True),
    ],
)
def test_a_request_without_id_keeps_the_one_it_had(value: bytes, known: bool, headers: Headers, is_named: bool) -> None:
    record = planned(letter(value, known=known, headers=headers)).record
    names = [header for name, header in record.headers if name == "notification-id"]
    assert bool(names) == is_named
    if known and is_named:
        assert names == [str(NOTIFICATION).encode()]
    assert planned(letter(value, known=known, headers=headers)).record == record


@pytest.mark.parametrize(
    ("headers", "topic"),
    [
        ((("return-topic", b"notification.requests.low"), ("due-at", b"never")), "notification.requests.low"),
        ((("return-topic", b"notification.send.sms.low"),), "notification.send.sms.low"),
        ((("return-topic", b"notification.dlq"),), None),
        ((("return-topic", b"notification.delay.1s"),), None),
        ((("return-topic", b"user.contacts"),), None),
        ((("return-topic", b"elsewhere"),), None),
        ((("return-topic", b"\xff"),), None),
        ((), None),
    ],
)
def test_what_died_on_a_delay_topic_goes_where_it_was_bound(headers: Headers, topic: str | None) -> None:
    found = plan(letter(REQUEST, topic="notification.delay.5s", headers=headers, stage=Stage.DELAY))
    if topic is None:
        assert found is WhyNot.NO_TOPIC
    else:
        assert isinstance(found, Replay)
        assert found.record.topic == topic
        assert not {"return-topic", "due-at"} & {name for name, _ in found.record.headers}


def test_a_delivery_from_a_delay_topic_is_one_too() -> None:
    dead = letter(
        delivery(generation=1, attempt=4).record_value(),
        topic="notification.delay.5s",
        headers=(("return-topic", b"notification.send.email.normal"),),
        stage=Stage.DELAY,
    )
    replay = planned(dead)
    assert replay.delivery is not None
    assert (replay.delivery.generation, replay.delivery.attempt) == (2, 1)


@pytest.mark.parametrize("topic", ["user.contacts", "notification.dlq", "notification.sent", "made.up", ""])
def test_replays_go_to_request_and_send_topics_only(topic: str) -> None:
    assert plan(letter(REQUEST, topic=topic)) is WhyNot.NO_TOPIC
    assert CATALOGUE.keys() > REQUEST_TOPICS | SEND_TOPICS


def test_a_stub_cannot_go_back() -> None:
    dead = letter(None)
    stub = Incoming(DEAD_LETTERS, 3, 17, 0, dead.key, None, (*dead.headers, ("truncated", b"3000000")))
    assert plan(stub) is WhyNot.TRUNCATED


def test_an_empty_record_goes_back_as_it_is() -> None:
    assert planned(letter(None)).record.value is None


def test_what_is_larger_than_its_topic_does_not_go_back() -> None:
    assert plan(letter(b"x" * 700_000)) is WhyNot.TOO_LARGE
    assert isinstance(plan(letter(b"x" * 700_000, topic="notification.send.sms.low")), Replay)


@pytest.mark.parametrize(
    ("said", "force", "allowed"),
    [(b"2", False, True), (b"3", False, False), (b"3", True, True), (b"10000", True, False), (b"junk", False, True)],
)
def test_three_times_is_enough_without_force(said: bytes, force: bool, allowed: bool) -> None:
    found = plan(letter(REQUEST, headers=(("replay-generation", said),)), force=force)
    assert (found is WhyNot.CEILING) == (not allowed)


@given(
    value=st.none() | st.binary(max_size=200) | st.builds(orjson.dumps, st.dictionaries(st.text(), st.integers(0, 9))),
    names=st.lists(st.sampled_from(["replay-generation", "replay-of", "return-topic", "due-at", "x", "stage"])),
    held=st.binary(max_size=12),
    topic=st.sampled_from([*CATALOGUE, "made.up"]),
)
def test_whatever_a_letter_is_the_answer_is_one_and_the_same(
    value: bytes | None, names: list[str], held: bytes, topic: str
) -> None:
    dead = letter(value, topic=topic, headers=tuple((name, held) for name in names), known=False)
    found = plan(dead)
    assert plan(dead) == found
    if isinstance(found, Replay):
        assert found.record.topic in REQUEST_TOPICS | SEND_TOPICS
        assert 1 <= found.generation <= LAST_GENERATION
        again = Incoming(found.record.topic, 0, 0, 0, found.record.key, found.record.value, found.record.headers)
        assert generation_of(again) == found.generation
        assert len(replay_headers(again)) == 2


def stands(status: Status, generation: int = 0, *, is_cancelled: bool = False) -> Stands:
    return Stands(generation=generation, status=status, rank=RANK[status], is_cancelled=is_cancelled)


@pytest.mark.parametrize(
    ("replay", "status", "generation", "stand", "again"),
    [
        # No replay at all.
        (0, Status.FAILED, 0, {Channel.EMAIL: stands(Status.FAILED)}, None),
        # Only what failed.
        (1, Status.FAILED, 0, {Channel.EMAIL: stands(Status.FAILED)}, Again(1, frozenset({Channel.EMAIL}))),
        (
            1,
            Status.SENT,
            0,
            {Channel.EMAIL: stands(Status.SENT), Channel.SMS: stands(Status.FAILED)},
            Again(1, frozenset({Channel.SMS})),
        ),
        (1, Status.SENT, 0, {Channel.EMAIL: stands(Status.SENT)}, None),
        (1, Status.QUEUED, 0, {Channel.EMAIL: stands(Status.RETRYING)}, None),
        (1, Status.SUPPRESSED, 0, {Channel.EMAIL: stands(Status.SUPPRESSED)}, None),
        # The same replay a second time, or one from before.
        (1, Status.FAILED, 1, {Channel.EMAIL: stands(Status.FAILED, 1)}, None),
        (1, Status.QUEUED, 1, {Channel.EMAIL: stands(Status.QUEUED, 1)}, None),
        (2, Status.FAILED, 1, {Channel.EMAIL: stands(Status.FAILED, 1)}, Again(2, frozenset({Channel.EMAIL}))),
        # None of ours.
        (5, Status.FAILED, 0, {Channel.EMAIL: stands(Status.FAILED)}, None),
        # The request itself failed.
        (1, Status.FAILED, 0, None, Again(1)),
        (1, Status.FAILED, 1, None, None),
        (1, Status.EXPIRED, 0, None, None),
        # Cancelled wins.
        (1, Status.CANCELLED, 0, None, None),
        (1, Status.CANCELLED, 0, {Channel.EMAIL: stands(Status.FAILED)}, None),
        (1, Status.FAILED, 0, {Channel.EMAIL: stands(Status.FAILED, is_cancelled=True)}, None),
    ],
)
def test_a_replayed_request_does_anew_what_failed(
    replay: int, status: Status, generation: int, stand: dict[Channel, Stands] | None, again: Again | None
) -> None:
    assert may_again(replay, status=status, generation=generation, stand=stand) == again


@given(size=st.integers(650_000, 656_000), count=st.integers(0, 60))
def test_what_a_plan_allows_the_producer_takes(size: int, count: int) -> None:
    headers = tuple((f"h{number}", b"x") for number in range(count))
    found = plan(letter(b"x" * size, headers=headers))
    if isinstance(found, Replay):
        check_size(found.record)
