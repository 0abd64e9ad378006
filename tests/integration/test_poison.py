"""Poison among good records of one partition: the good ones are delivered, the poison is a dead letter, unchanged."""

from __future__ import annotations

import asyncio
import base64
import json
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
from aiokafka import AIOKafkaProducer, codec
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from models.enums import Channel, Outcome
from models.ids import from_record
from streams.bootstrap import cluster_id
from streams.providers.base import DeliveryResult
from streams.topics import DEAD_LETTERS
from tests.fixtures.records import Headers, RawClient, Written, raw_client
from tests.fixtures.service import Ledger, Service

_FILE = json.loads((Path(__file__).parents[1] / "payloads" / "kafka_poison.json").read_text())
REQUESTS = "notification.requests.normal"
#: Good records before and behind each poison.
AROUND = 10
#: What no reason may quote: the content of the cases.
CONTENT = ("Ada", "aa@example", "u-1", "Hi {", "pigeon", "yesterday", "PICKLE", "secret")


@dataclass(frozen=True)
class Poison:
    """A record that may be bad. `expect` is in the words of the payload file."""

    name: str
    expect: str
    value: bytes | None
    key: bytes | None = b"u-1"
    headers: Headers = ()
    copies: int = 1
    timestamp_ms: int | None = None

    @property
    def notification_id(self) -> UUID | None:
        try:
            return UUID(orjson.loads(self.value or b"")["id"])
        except (ValueError, LookupError, TypeError):
            return None


def _of_file(case: dict[str, Any]) -> Poison:
    value = base64.b64decode(case["value_b64"]).replace(b"@@ID@@", str(uuid.uuid4()).encode())
    headers = [(name, None if text is None else base64.b64decode(text)) for name, text in case["headers"]]
    key = base64.b64decode(case["key_b64"])
    return Poison(case["id"], case["expect"], value, key, headers, case.get("copies", 1))


def _good(**fields: Any) -> bytes:
    request = {**_FILE["good"], "id": str(uuid.uuid4()), **fields}
    return orjson.dumps({name: value for name, value in request.items() if value is not ...})


def _raw(text: str) -> bytes:
    """A good request with `text` as one more member."""
    return _good()[:-1] + b"," + text.encode() + b"}"


OWN = [
    Poison("null value", "dead-letter", None),
    Poison("empty value", "dead-letter", b""),
    Poison("null key", "process", _good(), None),
    Poison("key is no UTF-8", "process", _good(), b"\xff\xfe"),
    Poison("null key and value", "dead-letter", None, None),
    Poison("byte order mark", "dead-letter", b"\xef\xbb\xbf" + _good()),
    Poison("UTF-16", "dead-letter", _good().decode().encode("utf-16")),
    Poison("lone surrogate", "dead-letter", _raw(r'"data":{"name":"a\ud800b"}')),
    Poison("NUL in a metadata key", "dead-letter", _raw(r'"metadata":{"a\u0000b":"secret"}')),
    Poison("NUL in a metadata key of the wrong type", "dead-letter", _raw(r'"metadata":{"a\u0000b":7}')),
    Poison("NUL in the user", "dead-letter", _raw(r'"user_id":"u\u0000"')),
    Poison("larger than a request may be", "dead-letter", _good(data={"name": "Ada", "x": "x" * 530_000})),
    Poison("deep arrays", "dead-letter", _raw('"data":' + "[" * 900 + "]" * 900)),
    Poison("deep data", "dead-letter", _raw('"data":{"name":"Ada","x":' + "[" * 40 + "]" * 40 + "}")),
    Poison("infinite", "dead-letter", _raw('"data":{"name":1e999}')),
    Poison("year 9999", "dead-letter", _good(send_at="9999-12-31T23:59:59Z")),
    Poison("year 0000", "dead-letter", _good(send_at="0000-01-01T00:00:00Z")),
    Poison("time without offset", "dead-letter", _good(send_at="2026-01-01T00:00:00")),
    Poison("no id", "process", _good(id=...)),
    Poison("no address", "dead-letter", _good(recipient=...)),
    Poison("two addresses", "dead-letter", _good(recipient={"email": "aa@example.com, b@example.com"})),
    Poison("header value no UTF-8", "process", _good(), headers=[("client-id", b"\xff"), ("traceparent", b"\xff")]),
    Poison("header of no name", "process", _good(), headers=[("", b"x")]),
    Poison("the same header twice", "process", _good(), headers=[("client-id", b"a"), ("client-id", b"b")]),
    Poison(
        "poison with our own headers", "dead-letter", b"{", headers=[("stage", b"x"), ("x-a", None), ("due-at", b"")]
    ),
    Poison("time of record is zero", "process", _good(id=...), timestamp_ms=0),
    Poison("time of record is long past", "process", _good(id=...), timestamp_ms=1),
]
CASES = [_of_file(case) for case in _FILE["cases"]] + OWN


@dataclass
class Stream:
    """What was written, and what became of it."""

    placed: dict[str, list[Written]]
    good: list[UUID]
    seconds: float
    letters: dict[tuple[str, int, int], list[Any]]

    def of(self, written: Written) -> list[Any]:
        return self.letters.get((written.topic, written.partition, written.offset), [])


@pytest.fixture(scope="module")
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module")
async def raw(service: Service) -> AsyncIterator[RawClient]:
    async with raw_client(service.settings) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service, ledger: Ledger) -> AsyncIterator[None]:
    async with service.worker(providers={Channel.EMAIL: (ledger,)}):
        yield


def a_good_one(number: int) -> tuple[UUID, bytes]:
    request = {
        **_FILE["good"],
        "id": str(uuid.uuid4()),
        "user_id": f"good-{number}",
        "recipient": {"email": f"good-{number}@example.com"},
    }
    return UUID(request["id"]), orjson.dumps(request)


async def letters(raw: RawClient) -> dict[tuple[str, int, int], list[Any]]:
    """The dead letters by the record that died."""
    found: dict[tuple[str, int, int], list[Any]] = {}
    for record in await raw.read(DEAD_LETTERS):
        headers = dict(reversed(record.headers))
        source = (
            headers["source-topic"].decode(),
            int(headers["source-partition"]),
            int(headers["source-offset"]),
        )
        found.setdefault(source, []).append(record)
    return found


async def all_sent(ledger: Ledger, ids: Sequence[UUID], *, within_seconds: float = 10.0) -> float:
    started = time.monotonic()
    wanted = set(ids)
    async with asyncio.timeout(within_seconds):
        while wanted - {call.notification_id for call in ledger.calls}:
            await asyncio.sleep(0.05)
    return time.monotonic() - started


@pytest.fixture(scope="module")
async def stream(service: Service, ledger: Ledger, raw: RawClient, worker: None) -> Stream:
    """All cases in one partition, each with good records around it."""
    placed: dict[str, list[Written]] = {}
    good: list[UUID] = []
    pending = []
    for case in CASES:
        pending += [await _send_good(raw, good) for _ in range(AROUND)]
        futures = [
            await raw.send(REQUESTS, case.value, key=case.key, headers=case.headers, timestamp_ms=case.timestamp_ms)
            for _ in range(case.copies)
        ]
        metas = [await future for future in futures]
        placed[case.name] = [Written(REQUESTS, meta.partition, meta.offset) for meta in metas]
        pending += [await _send_good(raw, good) for _ in range(AROUND)]
    await asyncio.gather(*pending)
    seconds = await all_sent(ledger, good)
    await raw.until_done("requests-normal", REQUESTS)
    print(json.dumps({"poison": len(CASES), "good": len(good), "seconds_to_deliver": round(seconds, 2)}))
    return Stream(placed, good, seconds, await letters(raw))


async def _send_good(raw: RawClient, good: list[UUID]) -> asyncio.Future[Any]:
    notification, value = a_good_one(len(good))
    good.append(notification)
    return await raw.send(REQUESTS, value, key=f"good-{len(good)}".encode())


async def test_the_good_ones_are_each_sent_once(stream: Stream, ledger: Ledger, service: Service) -> None:
    calls = Counter(call.notification_id for call in ledger.calls)
    assert {notification: calls[notification] for notification in stream.good} == dict.fromkeys(stream.good, 1)
    rows = await service.fetch("SELECT status, count(*) FROM notifications WHERE user_id LIKE 'good-%' GROUP BY status")
    assert [tuple(row) for row in rows] == [("sent", len(stream.good))]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_case(case: Poison, stream: Stream, service: Service, ledger: Ledger) -> None:
    found = [letter for written in stream.placed[case.name] for letter in stream.of(written)]
    if found or case.expect == "dead-letter":
        assert case.expect not in ("process", "one-effect")
        assert len(found) == 1
        assert_unchanged(case, found[0])
        await assert_indexed_once(service, stream.placed[case.name][0], found[0])
        return
    notification = await an_id(case, stream, service)
    assert await service.until(notification, "sent", "failed") == "sent"
    assert len(ledger.of(notification)) == 1


async def an_id(case: Poison, stream: Stream, service: Service) -> UUID:
    given = case.notification_id
    if given is not None:
        return given
    [written] = stream.placed[case.name]
    if case.timestamp_ms is not None:
        cluster = await cluster_id(service.settings)
        return from_record(cluster, written.topic, written.partition, written.offset, case.timestamp_ms)
    [row] = await service.fetch(
        "SELECT id FROM notifications WHERE user_id = 'u-1' AND NOT id = ANY(:known)"
        " AND uuid_extract_version(id) = 5 ORDER BY created_at LIMIT 1",
        known=[other.notification_id for other in CASES if other.notification_id],
    )
    found: UUID = row.id
    return found


def assert_unchanged(case: Poison, letter: Any) -> None:
    assert letter.value == case.value
    assert letter.key == case.key
    own = {"stage"}
    kept = [pair for pair in case.headers if pair[0] not in own]
    assert list(letter.headers[: len(kept)]) == kept
    headers = dict(letter.headers)
    assert headers["stage"] == b"request"
    assert headers["error-class"]
    assert headers["failed-at"].endswith(b"Z")
    reason = headers["error-reason"].decode()
    assert reason
    assert not [word for word in CONTENT if word in reason]


async def assert_indexed_once(service: Service, written: Written, letter: Any) -> None:
    rows = await service.fetch(
        "SELECT id, error_class, error_reason FROM delivery_failures"
        " WHERE source_topic = :topic AND source_partition = :partition AND source_offset = :offset",
        topic=written.topic,
        partition=written.partition,
        offset=written.offset,
    )
    headers = dict(letter.headers)
    assert [tuple(row) for row in rows] == [
        (f"{letter.partition}-{letter.offset}", headers["error-class"].decode(), headers["error-reason"].decode())
    ]


@pytest.mark.skipif(not codec.has_zstd(), reason="aiokafka reads lz4, snappy and zstd only with cramjam installed")
async def test_a_codec_that_the_broker_chose_is_read(service: Service, raw: RawClient, ledger: Ledger) -> None:
    """Other clients compress as they like; the broker is told to, in their place."""
    for name in ("lz4", "snappy", "zstd", "gzip"):
        await configure(service, REQUESTS, {"compression.type": name})
        notification, value = a_good_one(90_000)
        await raw.put(REQUESTS, value)
        await all_sent(ledger, [notification])
    await configure(service, REQUESTS, {"compression.type": "producer"})


async def configure(service: Service, topic: str, changes: dict[str, str]) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=service.settings.kafka_bootstrap_servers)
    await admin.start()
    try:
        name = service.settings.kafka_topic_prefix + topic
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, name, changes)])
    finally:
        await admin.close()


async def test_a_transaction_and_an_aborted_one(service: Service, raw: RawClient, ledger: Ledger) -> None:
    """Their markers take offsets that no record has."""
    producer = AIOKafkaProducer(
        bootstrap_servers=service.settings.kafka_bootstrap_servers, transactional_id=str(uuid.uuid4())
    )
    await producer.start()
    good = []
    try:
        for commit in (True, False, True):
            await producer.begin_transaction()
            notification, value = a_good_one(91_000)
            await producer.send(service.settings.kafka_topic_prefix + REQUESTS, value, key=b"u-1", partition=0)
            await (producer.commit_transaction() if commit else producer.abort_transaction())
            good += [notification] if commit else []
    finally:
        await producer.stop()
    await all_sent(ledger, good)
    after, value = a_good_one(91_001)
    await raw.put(REQUESTS, value)
    await all_sent(ledger, [after])
    await raw.until_done("requests-normal", REQUESTS)


async def test_a_header_name_that_is_no_utf8(raw: RawClient, ledger: Ledger) -> None:
    """aiokafka can't decode the name, and would stop in front of the record for ever."""
    before, value = a_good_one(92_000)
    await raw.put(REQUESTS, value)
    odd, value = a_good_one(92_001)
    await raw.put_undecodable(REQUESTS, value)
    dead = await raw.put_undecodable(REQUESTS, b"{")
    after, value = a_good_one(92_002)
    await raw.put(REQUESTS, value)
    await all_sent(ledger, [before, odd, after])
    [letter] = (await letters(raw))[dead.topic, dead.partition, dead.offset]
    assert (letter.key, letter.value) == (b"u-1", b"{")


@pytest.mark.parametrize("timestamp_ms", [-2, -(10**15), -(2**62)])
async def test_a_time_of_record_that_is_none(raw: RawClient, ledger: Ledger, timestamp_ms: int) -> None:
    notification, value = a_good_one(93_000)
    try:
        await raw.put(REQUESTS, value, timestamp_ms=timestamp_ms)
    except KafkaError as error:
        pytest.skip(f"the broker refuses it: {type(error).__name__}")
    await all_sent(ledger, [notification])


SEND = "notification.send.email.normal"


def _delivery(**fields: Any) -> bytes:
    delivery = {
        "delivery_id": str(uuid.uuid4()),
        "notification_id": str(uuid.uuid4()),
        "user_id": "u-send",
        "channel": "email",
        "category": "general",
        "to": "aa@example.com",
        "content": {"subject": "secret", "text": "secret"},
        "created_at": "2026-01-01T00:00:00Z",
        **fields,
    }
    return orjson.dumps({name: value for name, value in delivery.items() if value is not ...})


SENDS = {
    "no JSON": b"\xff{",
    "null": None,
    "empty object": b"{}",
    "another channel": _delivery(channel="sms"),
    "NUL in the user": _delivery(user_id="a\x00b"),
    "NUL in a name": _delivery(metadata={"a\x00b": 7}),
    "attempt beyond the column": _delivery(attempt=70_000),
    "generation beyond the column": _delivery(generation=2**40),
    "integer beyond 64 bits": _delivery()[:-1] + b',"attempt":' + b"9" * 400 + b"}",
    "no such time": _delivery(created_at="yesterday"),
}


async def test_poison_on_a_send_topic(service: Service, raw: RawClient, ledger: Ledger) -> None:
    good: list[UUID] = []
    placed: dict[str, Written] = {}
    for name, value in SENDS.items():
        for _ in range(AROUND):
            good.append(uuid.uuid4())
            await raw.send(SEND, _delivery(notification_id=str(good[-1])))
        placed[name] = await raw.put(SEND, value)
    for _ in range(AROUND):
        good.append(uuid.uuid4())
        await raw.put(SEND, _delivery(notification_id=str(good[-1])))
    await all_sent(ledger, good)
    await raw.until_done("send-email-normal", SEND)
    found = await letters(raw)
    for name, written in placed.items():
        [letter] = found[(written.topic, written.partition, written.offset)]
        assert (name, letter.value) == (name, SENDS[name])
        reason = dict(letter.headers)["error-reason"].decode()
        assert reason
        assert not [word for word in CONTENT if word in reason]
        await assert_indexed_once(service, written, letter)


@pytest.mark.parametrize(
    "answer",
    [
        DeliveryResult(outcome=Outcome.PERMANENT, provider="ledger", reason="a\x00b\ud800c" + "x" * 5000),
        DeliveryResult(outcome=Outcome.SENT, provider="ledger", provider_message_id="\x00\udfff" * 2000),
        DeliveryResult(outcome=Outcome.PERMANENT, provider="ledger", reason=""),
        ValueError("secret"),
    ],
    ids=["odd reason", "odd id", "no reason", "raises"],
)
async def test_a_provider_that_answers_oddly(
    service: Service, raw: RawClient, ledger: Ledger, answer: DeliveryResult | Exception
) -> None:
    odd, value = a_good_one(94_000)
    after, good = a_good_one(94_001)
    before = ledger.answer
    ledger.answer = lambda delivery: answer if delivery.notification_id == odd else before(delivery)
    await raw.put(REQUESTS, value)
    await raw.put(REQUESTS, good)
    await all_sent(ledger, [after])
    await service.until(odd, "sent", "failed", within_seconds=10)
    ledger.answer = before


async def test_what_the_database_refuses_is_found_by_halving(service: Service, raw: RawClient, ledger: Ledger) -> None:
    """A rule of the database that no validation knows."""
    rule = "ck_test_refused"
    await service.execute(f"ALTER TABLE notifications ADD CONSTRAINT {rule} CHECK (category <> 'refused')")
    try:
        placed, good = [], []
        for number in range(60):
            notification, value = a_good_one(95_000 + number)
            good.append(notification)
            await raw.send(REQUESTS, value)
            if number % 20 == 10:
                placed.append(await raw.send(REQUESTS, _good(category="refused")))
        metas = [await future for future in placed]
        await all_sent(ledger, good)
        await raw.until_done("requests-normal", REQUESTS)
    finally:
        await service.execute(f"ALTER TABLE notifications DROP CONSTRAINT {rule}")
    found = await letters(raw)
    for meta in metas:
        [letter] = found[(REQUESTS, meta.partition, meta.offset)]
        assert dict(letter.headers)["error-class"] == b"database_refused"
        await assert_indexed_once(service, Written(REQUESTS, meta.partition, meta.offset), letter)
    calls = Counter(call.notification_id for call in ledger.calls)
    assert [calls[notification] for notification in good] == [1] * len(good)
