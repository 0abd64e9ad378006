"""Every case of webhook_cases.json through the real door: what lands on `provider.events`, and what doesn't."""

from __future__ import annotations

import asyncio
import contextlib
import io
import logging
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
import structlog

from streams import logs
from streams.records import CONTENT_TYPE
from tests.fixtures.api import RunningApi, an_api
from tests.fixtures.service import Service, a_service
from tests.fixtures.stack import Databases, Identity
from tests.fixtures.webhooks import (
    CASES,
    PATH,
    PUBLIC_URL,
    Ids,
    Posted,
    Told,
    callback_settings,
    posted,
    sendgrid_headers,
    sns_signed,
    told,
    twilio_signature,
)

SENDGRID = f"{PATH}sendgrid"
#: Nothing of these may be logged or answered, whoever sends it.
SECRETS = ("ada@example.com", "bob@example.com", "+15005550006", "15005550006", "STOPALL", "TEST-TOKEN", "user unknown")

#: The kinds that each accepted case lands as; `[]`: signed, and nothing that matters.
LANDS: dict[str, list[str]] = {
    "sg-ok-04": ["bounced"],
    "sg-ok-09": ["unsubscribed"],
    "sg-ok-10": ["resubscribed"],
    "sg-ok-11": ["opened"],
    "sg-batch-01": ["accepted", "delivered", "opened"],
    "sg-dup-01": ["delivered"],
    "tw-ok-03": ["delivered"],
    "tw-ok-04": ["failed"],
    "tw-ok-05": ["failed"],
    "tw-ok-06": ["failed"],
    "tw-ok-07": ["failed", "unsubscribed"],
    "tw-ok-08": ["cancelled"],
    "tw-ok-09": ["opened"],
    "tw-ok-10": ["unknown"],
    "tw-unicode": [],
    "tw-dup": ["delivered"],
    "tw-empty-param": ["delivered"],
    "tw-extra": ["delivered"],
    "tw-order": ["accepted"],
    "tw-optout-stopall50": ["unsubscribed"],
    "tw-optout-end51": ["unsubscribed"],
    "ses-ok-05": ["bounced", "bounced"],
    "ses-ok-10": ["deferred"],
}
POSTED = {name: case for name, case in CASES.items() if "body_b64" in case}


@pytest.fixture(scope="module")
async def service(
    kafka: str, postgres: Databases, migrated: str, valkey: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Service]:
    more = callback_settings(tmp_path_factory.mktemp("certificates"))
    async with a_service(kafka, postgres, migrated, valkey, **more) as running:
        yield running


@pytest.fixture(scope="module")
async def api(service: Service, identity: Identity) -> AsyncIterator[RunningApi]:
    async with an_api(service, identity) as running:
        yield running


@pytest.fixture(scope="module")
async def events(service: Service) -> AsyncIterator[Told]:
    async with told(service.settings) as reader:
        yield reader


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """All that is logged meanwhile, by whatever logger, at any level."""
    lines: list[str] = []
    plain = logging.getLogger()
    stream = io.StringIO()
    handler, level = logging.StreamHandler(stream), plain.level
    # The callers of these tests, and what `configure_logs` silences at every level.
    handler.addFilter(lambda record: record.name.split(".")[0] not in ("httpx", "httpcore", *logs._QUIET))
    plain.addHandler(handler)
    plain.setLevel(logging.DEBUG)
    with structlog.testing.capture_logs() as entries:
        yield lines
    plain.setLevel(level)
    plain.removeHandler(handler)
    lines += [*map(str, entries), stream.getvalue()]
    assert not [(secret, line) for line in lines for secret in SECRETS if secret in line]


@pytest.fixture
def names_asked(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The hosts that this process looks up: whoever sends a request elsewhere does that first."""
    asked: list[str] = []
    look_up = socket.getaddrinfo

    def noting(host: Any, *rest: Any, **more: Any) -> Any:
        asked.append(str(host))
        return look_up(host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", noting)
    yield asked
    assert not [host for host in asked if host not in ("127.0.0.1", "localhost")]


async def send(api: RunningApi, made: Posted) -> httpx.Response:
    answer = await api.client("nobody").post(made.target, content=made.body, headers=made.headers)
    assert not [secret for secret in SECRETS if secret in answer.text]
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["status"] == answer.status_code
    else:
        assert (answer.status_code, answer.content) == (204, b"")
    return answer


def batch(*elements: dict[str, Any], at: float | None = None) -> Posted:
    body = orjson.dumps(elements)
    return Posted("sendgrid", sendgrid_headers(body, at=at), body)


def element(**fields: Any) -> dict[str, Any]:
    return {
        "email": "ada@example.com",
        "timestamp": int(time.time()) - 5,
        "event": "delivered",
        "sg_event_id": uuid4().hex,
        "sg_message_id": "14c5d75ce93.dfd.64b469",
        "delivery_id": str(uuid4()),
        **fields,
    }


def counted(provider: str, result: str) -> float:
    from api.metrics import CALLBACKS

    return CALLBACKS.labels(provider, result)._value.get()


@pytest.mark.parametrize("name", POSTED)
async def test_every_case_is_as_it_says(
    api: RunningApi, events: Told, logged: list[str], names_asked: list[str], name: str
) -> None:
    case = POSTED[name]
    await events.new()
    made = posted(case, Ids())
    answers = [await send(api, made) for _ in range(case["repeat"])]
    statuses = {answer.status_code for answer in answers}
    landed = [event["kind"] for event in await events.new()]
    if case["expect"] == "accepted":
        assert statuses == {204}
        assert sorted(landed) == sorted(LANDS[name])
    elif case["expect"] == "rejected":
        assert statuses == {403}
        assert landed == []
    else:
        assert all(200 <= status < 300 or 400 <= status < 500 for status in statuses)
        assert landed == []
    # A verified repeat is a 2xx without effect, a forged one is refused again.
    assert (await send(api, made)).status_code == answers[0].status_code
    assert await events.new() == []


async def test_what_lands_is_what_was_told(api: RunningApi, events: Told) -> None:
    await events.new()
    ids = Ids()
    assert (await send(api, posted(CASES["sg-ok-04"], ids))).status_code == 204
    (record,) = await events.records()
    event = orjson.loads(record.value)
    assert record.headers == (CONTENT_TYPE,)
    assert record.key == ids.word.encode()  # the vendor's message id: the case knows no delivery id
    assert event["event_id"] == f"sendgrid:{ids.word}-evt-03"
    assert (event["provider"], event["channel"], event["kind"]) == ("sendgrid", "email", "bounced")
    assert (event["notification_id"], event["address"]) == (str(ids.notification_id), "ada@example.com")
    assert (event["is_permanent"], event["reason"]) == (True, "5.0.0")
    assert "unknown recipient" not in str(event)


async def test_events_of_one_delivery_share_a_key_and_stay_in_order(api: RunningApi, events: Told) -> None:
    await events.new()
    mine, other = str(uuid4()), str(uuid4())
    kinds = ["processed", "deferred", "delivered", "open", "click"]
    elements = [element(event=kind, delivery_id=known) for kind in kinds for known in (mine, other)]
    assert (await send(api, batch(*elements))).status_code == 204
    records = await events.records()
    assert len(records) == 10
    for known in (mine, other):
        told_of = [orjson.loads(record.value)["kind"] for record in records if record.key == known.encode()]
        assert told_of == ["accepted", "deferred", "delivered", "opened", "clicked"]


async def test_a_trace_travels_on(api: RunningApi, events: Told) -> None:
    await events.new()
    made = batch(element())
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    await api.client("nobody").post(made.target, content=made.body, headers=made.headers | {"traceparent": trace})
    (record,) = await events.records()
    assert dict(record.headers)["traceparent"] == trace.encode()


async def test_only_what_is_new_in_a_repeated_batch_is_told(api: RunningApi, events: Told) -> None:
    await events.new()
    first, second = element(), element()
    await send(api, batch(first))
    await send(api, batch(first, second, second))
    assert [event["event_id"] for event in await events.new()] == [
        f"sendgrid:{each['sg_event_id']}" for each in (first, second)
    ]


async def test_one_odd_element_costs_the_others_nothing(api: RunningApi, events: Told) -> None:
    await events.new()
    good = [element(), element()]
    body = orjson.dumps([good[0], 5, None, {"event": {"a": []}}, good[1]])[:-1] + b',{"email":"\\ud800"}]'
    answer = await send(api, Posted("sendgrid", sendgrid_headers(body), body))
    assert answer.status_code == 204
    landed = [event["event_id"] for event in await events.new()]
    assert {f"sendgrid:{each['sg_event_id']}" for each in good} <= set(landed)


async def test_thousands_of_events_in_one_body(api: RunningApi, events: Told) -> None:
    await events.new()
    elements = [element() for _ in range(4000)]
    assert (await send(api, batch(*elements))).status_code == 204
    assert len({event["event_id"] for event in await events.new()}) == 4000


async def test_the_same_at_the_same_time_harms_nothing(api: RunningApi, events: Told) -> None:
    await events.new()
    made = batch(element())
    answers = await asyncio.gather(*(send(api, made) for _ in range(10)))
    assert {answer.status_code for answer in answers} == {204}
    assert len({event["event_id"] for event in await events.new()}) == 1


@pytest.mark.parametrize("late_seconds", [7200, -900])
async def test_stale_is_refused_where_the_vendor_signs_a_time(
    api: RunningApi, events: Told, logged: list[str], late_seconds: int
) -> None:
    await events.new()
    before = counted("sendgrid", "stale")
    answer = await send(api, batch(element(), at=time.time() - late_seconds))
    assert (answer.status_code, answer.json()["code"]) == (403, "stale")
    assert counted("sendgrid", "stale") == before + 1
    assert await events.new() == []


async def test_forged_is_counted_and_told_by_name_and_reason_alone(api: RunningApi, logged: list[str]) -> None:
    before = counted("sendgrid", "not_verified")
    with structlog.testing.capture_logs() as entries:
        answer = await send(api, posted(CASES["sg-forge-notb64"], Ids()))
    assert (answer.status_code, answer.json()["code"]) == (403, "not_verified")
    assert counted("sendgrid", "not_verified") == before + 1
    (entry,) = [entry for entry in entries if entry["event"] == "callback refused"]
    assert entry == {
        "event": "callback refused",
        "log_level": "warning",
        "provider": "sendgrid",
        "kind": "not_verified",
        "reason": "signature is not base64",
    }


@pytest.mark.parametrize("name", ["mailgun", "SENDGRID", "sendgrid%20", "..", "x" * 2000, "%00", "ada@example.com"])
async def test_who_is_not_known_is_not_found(api: RunningApi, logged: list[str], name: str) -> None:
    from api.metrics import CALLBACKS

    made = batch(element())
    answer = await api.client("nobody").post(f"{PATH}{name}", content=made.body, headers=made.headers)
    assert answer.status_code in (404, 405)
    labels = {sample.labels.get("provider") for metric in CALLBACKS.collect() for sample in metric.samples}
    assert labels <= {"sendgrid", "ses", "twilio", "sns", "other"}


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH"])
async def test_only_posts_are_taken(api: RunningApi, method: str) -> None:
    assert (await api.client("nobody").request(method, SENDGRID)).status_code == 405


async def test_the_body_is_bounded(api: RunningApi, events: Told) -> None:
    await events.new()
    large = orjson.dumps([element(padding="x" * 2**21)])
    answer = await send(api, Posted("sendgrid", sendgrid_headers(large), large))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")

    async def chunks() -> AsyncIterator[bytes]:
        for first in range(0, len(large), 65536):
            yield large[first : first + 65536]

    answer = await api.client("nobody").post(SENDGRID, content=chunks(), headers=sendgrid_headers(large))
    assert answer.status_code == 413
    assert await events.new() == []


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{}", b"[" * 100_000, b"\xff", b'{"a":1}', b"[1,2]", b'"' * 1000, b"[NaN]"]
)
@pytest.mark.parametrize("name", ["sendgrid", "twilio", "ses", "sns"])
async def test_signed_nonsense_is_never_a_500(
    api: RunningApi, events: Told, logged: list[str], names_asked: list[str], name: str, body: bytes
) -> None:
    await events.new()
    url = f"{PUBLIC_URL}{PATH}{name}"
    headers = sendgrid_headers(body) | {"X-Twilio-Signature": twilio_signature(url, {})}
    headers |= {"x-amz-sns-message-type": "Notification", "Content-Type": "text/plain"}
    if name == "twilio":
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    answer = await send(api, Posted(name, headers, body))
    assert answer.status_code == 204 or 400 <= answer.status_code < 500
    assert await events.new() == []


@pytest.mark.parametrize(
    "message", ["null", "[]", "5", '"x"', "{}", '{"notificationType": 5}', '{"eventType": "Bounce", "mail": []}', "{"]
)
@pytest.mark.parametrize("name", ["ses", "sns"])
async def test_a_signed_message_that_says_nothing_is_never_a_500(
    api: RunningApi, logged: list[str], name: str, message: str
) -> None:
    made = posted(POSTED["ses-ok-10"], Ids())
    envelope = {**orjson.loads(made.body), "Message": message, "MessageId": str(uuid4())}
    envelope.pop("Signature")
    answer = await send(api, Posted(name, made.headers, orjson.dumps(sns_signed(envelope))))
    assert answer.status_code == 204 or 400 <= answer.status_code < 500


async def test_headers_that_come_twice_prove_nothing(api: RunningApi) -> None:
    made = batch(element())
    twice = [*made.headers.items(), ("X-Twilio-Email-Event-Webhook-Signature", "AAAA")]
    answer = await api.client("nobody").post(made.target, content=made.body, headers=twice)
    assert answer.status_code == 403


async def test_the_token_is_neither_needed_nor_a_key(api: RunningApi) -> None:
    made = posted(CASES["sg-forge-nosig"], Ids())
    for role in ("admin", "service", "user"):
        answer = await api.client(role).post(made.target, content=made.body, headers=made.headers)
        assert answer.status_code == 403


@pytest.mark.parametrize("root_path", ["", "/comms"])
async def test_twilio_may_have_signed_each_address_that_is_ours(
    service: Service, identity: Identity, root_path: str
) -> None:
    settings = service.settings.model_copy(update={"root_path": root_path})
    own = Service(settings, service.engine, service.publisher)
    query = "?delivery_id=5f0c6f7e-2a3b-5c4d-8e9f-0a1b2c3d4e52&generation=0&attempt=1"
    fields = {"MessageSid": "SM" + uuid4().hex, "MessageStatus": "delivered", "AccountSid": settings.twilio_account_sid}
    async with an_api(own, identity) as api:
        port = httpx.URL(api.url).port
        for address, status in {
            f"{PUBLIC_URL}{PATH}twilio{query}": 204,
            f"{PUBLIC_URL}{root_path}{PATH}twilio{query}": 204,
            f"{PUBLIC_URL}:443{PATH}twilio{query}": 204,
            f"http://127.0.0.1:{port}{PATH}twilio{query}": 204,
            f"https://shop.example.com{PATH}twilio{query}": 403,
            f"{PUBLIC_URL}{PATH}twilio": 403,
            f"{PUBLIC_URL}{PATH}sendgrid{query}": 403,
        }.items():
            headers = {"X-Twilio-Signature": twilio_signature(address, fields)}
            answer = await api.client("nobody").post(f"{PATH}twilio{query}", data=fields, headers=headers)
            assert answer.status_code == status, address


async def test_what_is_not_configured_is_not_found(service: Service, identity: Identity) -> None:
    nothing = {
        "sendgrid_webhook_public_key": None,
        "twilio_auth_token": None,
        "twilio_account_sid": None,
        "sns_topic_arns": (),
    }
    own = Service(service.settings.model_copy(update=nothing), service.engine, service.publisher)
    async with an_api(own, identity) as api:
        for name in ("sg-ok-04", "tw-ok-03", "ses-ok-10"):
            answer = await send(api, posted(CASES[name], Ids()))
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


@contextlib.asynccontextmanager
async def without_kafka(service: Service, identity: Identity) -> AsyncIterator[RunningApi]:
    """An API whose broker refuses connections."""
    away = service.settings.model_copy(update={"kafka_bootstrap_servers": "127.0.0.1:9"})
    async with an_api(Service(away, service.engine, service.publisher), identity) as api:
        yield api


async def test_without_kafka_the_outbox_takes_over(service: Service, identity: Identity, events: Told) -> None:
    await events.new()
    elements = [element() for _ in range(3)]
    async with without_kafka(service, identity) as api:
        assert (await send(api, batch(*elements))).status_code == 204
        assert (await send(api, batch(*elements))).status_code == 204  # known: it is safe already
    rows = await service.fetch("SELECT key FROM message_queue WHERE topic = 'provider.events' ORDER BY id")
    # Others that came before this process had reached Kafka may be there too.
    assert [bytes(row.key).decode() for row in rows][-3:] == [each["delivery_id"] for each in elements]
    assert await events.new() == []
    async with service.worker(only={"outbox"}), asyncio.timeout(20):
        while len(await service.fetch("SELECT id FROM message_queue")):
            await asyncio.sleep(0.05)
    assert {each["delivery_id"] for each in elements} <= {event["delivery_id"] for event in await events.new()}


async def test_without_kafka_and_postgres_vendors_are_asked_to_repeat(
    service: Service, identity: Identity, logged: list[str]
) -> None:
    gone = service.settings.model_copy(update={"database_url": "postgresql+asyncpg://nobody@127.0.0.1:9/none"})
    made = batch(element())
    async with without_kafka(Service(gone, service.engine, service.publisher), identity) as api:
        for _ in range(3):
            answer = await send(api, made)
            assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
            assert int(answer.headers["retry-after"]) >= 1
