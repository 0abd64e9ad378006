"""Content, data, addresses, tokens and keys are in no log, metric, error text or event, at DEBUG and whatever fails."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any

import asyncpg
import httpx
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition

from bench.system import System, running_system

#: Each is put where its name says, and may be found nowhere.
MARKS = {
    place: f"zq{place}{uuid.uuid4().hex[:8]}"
    for place in (
        "subject", "text", "html", "title", "body", "value", "nested", "address", "header", "phone", "device",
        "apikey", "bearer", "idempotency", "template", "broken", "echo", "poison", "name", "attachment", "provider",
    )
}  # fmt: skip
#: Names of filters and options: the caller is told which one is wrong.
NAMES = frozenset(("broken", "provider"))
ENDS = ("sent", "failed", "suppressed", "expired", "cancelled")


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    settings: dict[str, Any] = {
        "LOG_LEVEL": "DEBUG",
        "KAFKA_PARTITIONS": "2",
        "SENDGRID_API_KEY": MARKS["apikey"],
        "EMAIL_RETRY__MAX_ATTEMPTS": "2",
        "EMAIL_RETRY__BASE_SECONDS": "0.05",
    }
    async with running_system(tmp_path_factory.mktemp("privacy") / "home", **settings) as running:
        yield running


def address() -> str:
    return f"{MARKS['address']}.{uuid.uuid4().hex[:6]}@example.com"


def request(**fields: Any) -> dict[str, Any]:
    made = {
        "id": str(uuid.uuid4()),
        "user_id": f"u-{uuid.uuid4().hex[:8]}",
        "channels": ["email", "in_app"],
        "recipient": {"email": address(), "phone": "+491511234567"},
        "content": {
            "subject": f"{MARKS['subject']} {{{{ v }}}}",
            "text": f"{MARKS['text']} {{{{ v }}}}",
            "html": f"<p>{MARKS['html']} {{{{ v }}}}</p>",
            "title": MARKS["title"],
            "body": f"{MARKS['body']} {{{{ deep.v }}}}",
        },
        "data": {"v": MARKS["value"], "deep": {"v": MARKS["nested"]}},
        "options": {"email": {"headers": {"X-Note": MARKS["header"]}}},
        **fields,
    }
    return {name: value for name, value in made.items() if value is not None}


class Mischief:
    """Everything that could make the service say too much."""

    def __init__(self, system: System, client: httpx.AsyncClient, producer: AIOKafkaProducer) -> None:
        self.system = system
        self.client = client
        self.producer = producer
        self.ids: list[str] = []

    async def post(self, path: str, body: Any, **more: Any) -> httpx.Response:
        answer = await self.client.post(path, content=json.dumps(body), headers=_JSON | more.pop("headers", {}), **more)
        assert answer.status_code < 500
        if answer.status_code >= 400:
            assert_unmarked(answer.text, "an error of the API", but=NAMES)
        return answer

    async def send(self, **fields: Any) -> str:
        body = request(**fields)
        if (await self.post("/notifications", body)).status_code == 202:
            self.ids.append(body["id"])
        return str(body["id"])

    async def publish(self, value: bytes | None, topic: str = "notification.requests.normal", **more: Any) -> None:
        await self.producer.send(topic, value, key=MARKS["poison"].encode(), **more)

    async def by_kafka(self, **fields: Any) -> None:
        body = request(**fields)
        self.ids.append(body["id"])
        await self.publish(orjson.dumps(body))

    async def ended(self) -> None:
        async with asyncio.timeout(40):
            for notification in self.ids:
                while (await self.client.get(f"/notifications/{notification}")).json()["status"] not in ENDS:
                    await asyncio.sleep(0.1)

    async def successes(self) -> None:
        await self.send()
        await self.send(idempotency_key=MARKS["idempotency"])
        await self.by_kafka()

    async def bad_inputs(self) -> None:
        secret = MARKS["value"]
        every: tuple[dict[str, Any], ...] = (
            {"channels": [secret]},
            {"recipient": {"email": f"{MARKS['address']} {secret}"}},
            {"send_at": secret},
            {"data": secret},
            {"data": {}},
            {"metadata": {secret + "@example.com": 7}},
            {"content": {"text": "{{ v." + MARKS["broken"], "subject": "s"}},
            {"content": {"text": "{% include '" + MARKS["broken"] + "' %}", "subject": "s"}},
            {"content": {"text": "{{ v|" + MARKS["broken"] + " }}", "subject": "s"}},
            {"options": {"email": {"from": f"{secret}\r\nBcc: {MARKS['address']}@example.com"}}},
            {"options": {"email": {"attachments": [{"url": "https://x.example/" + MARKS["attachment"]}]}}},
            {"options": {"provider": {"sendgrid": {MARKS["provider"]: 1}}}},
        )
        for fields in every:
            await self.send(**fields)
            await self.publish(orjson.dumps(request(**fields)))
        await self.client.post("/notifications", content=b"{" + secret.encode(), headers=_JSON)
        bearer = {"Authorization": f"Bearer {MARKS['bearer']}"}
        assert (await self.client.get("/notifications", headers=bearer)).status_code == 401
        again = await self.send()
        assert (
            await self.post("/notifications", request(id=again, data={"v": 1, "deep": {"v": 2}}))
        ).status_code == 422

    async def providers(self) -> None:
        """The vendor quotes what it was given, in every way it can fail."""
        echo = {
            "errors": [{"message": f"{MARKS['echo']} {MARKS['text']}", "field": MARKS["echo"], "help": MARKS["echo"]}]
        }
        for status in (400, 401, 413, 429, 500, 503, 302, 418):
            await self.answered(status=status, body=echo)
        for fault in ("reset", "cut"):
            await self.answered(fault=fault)
        await self.answered(status=400, body=MARKS["echo"], headers={"X-Message-Id": MARKS["echo"]})
        await self.system.behave()

    async def answered(self, **behaviour: Any) -> None:
        """One call that is answered so."""
        before = (await self.system.summary())["calls"]
        await self.system.behave(**behaviour, times=1)
        await self.send(channels=["email"])
        self.ids.pop()  # a broken provider is asked again after half a minute only
        async with asyncio.timeout(10):
            while (await self.system.summary())["calls"] == before:
                await asyncio.sleep(0.02)

    async def poison(self) -> None:
        mark = MARKS["poison"]
        topics = ("notification.requests.normal", "notification.send.email.normal", "notification.delay.1s")
        for value in (mark.encode(), b'{"user_id": "' + mark.encode(), f'{{"user_id": 1, "{mark}": 2}}'.encode(), None):
            for topic in (*topics, "user.contacts"):
                await self.publish(value, topic, headers=[("due-at", mark.encode()), ("return-topic", mark.encode())])
        await self.publish(b"{}", headers=[(mark, mark.encode())])

    async def people(self) -> None:
        user = f"u-{uuid.uuid4().hex[:6]}"
        contact = {"email": address(), "name": MARKS["name"], "phone": "+4915112345678"}
        await self.client.put(f"/users/{user}/contact", json=contact)
        await self.client.put(f"/users/{user}/contact", json={**contact, "email": MARKS["address"]})
        device = {"platform": "fcm", "token": MARKS["device"]}
        await self.client.put(f"/users/{user}/devices", json=device)
        value = {"user_id": user, **contact, "devices": [device]}
        bad = {**value, "devices": [{"platform": MARKS["device"], "token": MARKS["device"]}]}
        await self.publish(orjson.dumps(bad), "user.contacts")
        await self.producer.send("user.contacts", orjson.dumps(value), key=user.encode())
        parts = {"email": {"subject": MARKS["template"], "text": "{{ v }}" + MARKS["template"]}}
        await self.post("/templates", {"key": f"t-{user}", "channels": parts})
        await self.send(template_id=f"t-{user}", content=None, data={})
        await self.send(template_id=f"t-{user}", content=None, channels=["email"])
        broken = {"email": {"subject": MARKS["broken"], "text": "{% " + MARKS["broken"]}}
        await self.post("/templates", {"key": f"b-{user}", "channels": broken})
        await self.post("/templates/preview", {"channels": parts, "data": {}})


_JSON = {"Content-Type": "application/json"}


def assert_unmarked(text: str | bytes, where: str, *, but: frozenset[str] = frozenset()) -> None:
    content = text if isinstance(text, bytes) else text.encode()
    found = sorted(place for place, mark in MARKS.items() if mark.encode() in content and place not in but)
    if found:
        lines = [line for line in content.splitlines() if any(MARKS[place].encode() in line for place in found)]
        raise AssertionError(f"{where} tells {found}: {lines[0][:600]!r}")


@pytest.fixture(scope="module")
async def mischief(system: System) -> AsyncIterator[Mischief]:
    producer = AIOKafkaProducer(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await producer.start()
    try:
        async with httpx.AsyncClient(base_url=system.api_url, headers=system.headers("admin"), timeout=20) as client:
            made = Mischief(system, client, producer)
            for step in (made.successes, made.bad_inputs, made.people, made.poison, made.providers, made.successes):
                await step()
                await producer.flush()
            await made.ended()
            yield made
    finally:
        await producer.stop()


async def test_no_log_tells_them(system: System, mischief: Mischief) -> None:
    files = sorted((system.home / "log").glob("*"))
    assert {"api.log", "worker-1.log"} <= {file.name for file in files}
    for file in files:
        assert_unmarked(file.read_bytes(), file.name)
    told = (system.home / "log" / "worker-1.log").read_text()
    assert '"level":"debug"' in told or '"level":"info"' in told, "the worker says nothing at all"


async def test_no_metric_tells_them(system: System, mischief: Mischief) -> None:
    ports = json.loads((system.home / "data" / "ports.json").read_text())
    pages = [f"http://127.0.0.1:{port}/metrics" for name, port in ports.items() if name.startswith("metrics")]
    assert len(pages) >= 2
    async with httpx.AsyncClient() as client:
        for page in pages:
            found = await client.get(page)
            assert "comms_" in found.text
            assert_unmarked(found.content, page)


async def test_no_error_in_the_database_tells_them(system: System, mischief: Mischief) -> None:
    database = await asyncpg.connect(system.settings["DATABASE_URL"])
    try:
        failures = await database.fetch("SELECT * FROM delivery_failures")
        logs = await database.fetch("SELECT * FROM delivery_logs")
        reasons = await database.fetch(
            "SELECT reason FROM notifications UNION ALL SELECT reason FROM notification_deliveries"
        )
    finally:
        await database.close()
    assert len(failures) > 10
    assert {"permanent", "retry", "sent"} <= {row["outcome"] for row in logs}
    for row in (*failures, *logs, *reasons):
        assert_unmarked(repr(tuple(row.values())), "a row", but=NAMES)


async def test_no_event_and_no_reason_of_a_dead_letter_tells_them(system: System, mischief: Mischief) -> None:
    for topic in ("notification.status", "notification.sent", "notification.failed"):
        records = await read(system, topic)
        assert records
        for record in records:
            assert_unmarked(record.value, topic, but=NAMES)
    for letter in await read(system, "notification.dlq"):
        headers = dict(letter.headers)
        for name in ("error-class", "error-reason", "stage"):
            assert_unmarked(headers[name], f"{name} of a dead letter", but=NAMES)


async def read(system: System, topic: str) -> list[Any]:
    consumer = AIOKafkaConsumer(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await consumer.start()
    try:
        partitions = [TopicPartition(topic, number) for number in range(2)]
        consumer.assign(partitions)
        await consumer.seek_to_beginning(*partitions)
        ends = await consumer.end_offsets(partitions)
        found: list[Any] = []
        while [one for one, end in ends.items() if await consumer.position(one) < end]:
            batch = await consumer.getmany(timeout_ms=200)
            found += [record for records in batch.values() for record in records]
        return found
    finally:
        await consumer.stop()


async def test_the_command_line_and_lists_tell_no_content(system: System, mischief: Mischief) -> None:
    told: Iterable[str] = (
        system._comms("dlq", "list", "--json").stdout,
        (await mischief.client.get("/notifications?limit=100")).text,
    )
    for text in told:
        assert_unmarked(text, "a list", but=NAMES)
