"""Hostile templates and header injections through the running service, while others go on sending."""

from __future__ import annotations

import asyncio
import copy
import email
import email.policy
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path
from typing import Any

import httpx
import pytest
from aiokafka import AIOKafkaProducer

from bench.load import percentile
from bench.system import System, running_system

_PAYLOADS = Path(__file__).parents[1] / "payloads"
_FILE = json.loads((_PAYLOADS / "template_attacks.json").read_text())
ATTACKS: list[dict[str, Any]] = _FILE["cases"]
INJECTIONS: list[dict[str, Any]] = json.loads((_PAYLOADS / "email_header_injection.json").read_text())["cases"]
ENDS = ("sent", "failed", "suppressed", "expired", "cancelled")
OTHERS_P99_SECONDS = 2.0


@pytest.fixture(scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """With the mail catcher for a provider."""
    home = tmp_path_factory.mktemp("attacks") / "home"
    async with running_system(home, KAFKA_PARTITIONS="2", EMAIL_PROVIDERS="", EMAIL_RETRY__MAX_ATTEMPTS="2") as running:
        yield running


@pytest.fixture(scope="module")
async def admin(system: System) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=system.api_url, headers=system.headers("admin"), timeout=30) as client:
        yield client


@asynccontextmanager
async def others(system: System, *, per_second: float = 15.0) -> AsyncIterator[None]:
    """Callers that do nothing wrong; afterwards none of them has noticed anything."""
    pids = {name: system.pid(name) for name in ("worker-1", "api")}
    seconds: list[float] = []
    ids: list[str] = []

    async def call(client: httpx.AsyncClient) -> None:
        request = a_mail(f"o{uuid.uuid4().hex[:8]}@example.com", {"subject": "Hi {{ name }}", "text": "Hello"})
        started = time.monotonic()
        answer = await client.post("/notifications", json=request)
        seconds.append(time.monotonic() - started)
        assert answer.status_code == 202, answer.text
        ids.append(request["id"])

    async def pace(client: httpx.AsyncClient) -> None:
        async with asyncio.TaskGroup() as group:
            started = time.monotonic()
            for number in range(100_000):
                await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))
                group.create_task(call(client))

    async with httpx.AsyncClient(base_url=system.api_url, headers=system.headers(), timeout=30) as client:
        load = asyncio.create_task(pace(client))
        try:
            yield
        finally:
            done = load.done()
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        assert not done, load.exception()
        for notification in ids:
            assert await ended(client, notification) == "sent"
    assert {name: system.pid(name) for name in pids} == pids, "a process was started again"
    figures = {"p50": percentile(seconds, 0.5), "p99": percentile(seconds, 0.99), "max": max(seconds)}
    print(json.dumps({"others": len(seconds), **{name: round(value, 3) for name, value in figures.items()}}))
    assert figures["p99"] < OTHERS_P99_SECONDS


def a_mail(to: str, content: dict[str, str] | None = None, **fields: Any) -> dict[str, Any]:
    request = {
        "id": str(uuid.uuid4()),
        "user_id": f"u-{uuid.uuid4().hex[:8]}",
        "channel": "email",
        "recipient": {"email": to},
        "content": content,
        "data": {"name": "Ada"},
        **fields,
    }
    return {name: value for name, value in request.items() if value is not None}


async def post(client: httpx.AsyncClient, path: str, body: Any) -> httpx.Response:
    """JSON with escapes for all that UTF-8 can't hold."""
    answer = await client.post(path, content=json.dumps(body), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, (path, answer.status_code, answer.text)
    if answer.status_code >= 400:
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json().get("errors") or answer.json()["detail"]
    return answer


async def ended(client: httpx.AsyncClient, notification: str, *, within_seconds: float = 20.0) -> str:
    async with asyncio.timeout(within_seconds):
        while True:
            answer = await client.get(f"/notifications/{notification}")
            if answer.status_code == 200 and (status := answer.json()["status"]) in ENDS:
                return str(status)
            await asyncio.sleep(0.1)


def mails(system: System, to: str) -> list[tuple[bytes, EmailMessage]]:
    """What was caught for a recipient: the bytes, and what they mean."""
    return [(content, mail) for content, mail in all_mails(system, to) if to in str(mail["X-Envelope-To"])]


def all_mails(system: System, word: str = "") -> Iterator[tuple[bytes, EmailMessage]]:
    """Those whose bytes hold the word."""
    parser = BytesParser(policy=email.policy.default)
    for file in sorted((system.home / "mail").glob("[0-9]*.eml")):  # what begins with a dot is being written
        content = file.read_bytes()
        if word.encode() in content:
            yield content, parser.parsebytes(content)


def data_of(case: dict[str, Any]) -> dict[str, Any]:
    return {**copy.deepcopy(_FILE["context"]), **case.get("context_patch", {})}


def check(case: dict[str, Any], output: str | None, *, where: str) -> None:
    """None stands for refused."""
    accepted = {case["expect"], *case.get("accept_also", [])}
    told = f"{case['id']} by {where}"
    if output is None:
        assert "rejected" in accepted, told
        return
    assert accepted & {"rendered-safely", "bounded"}, told
    assert len(output.encode("utf-8", "surrogatepass")) <= _FILE["limits"]["output_bytes"], told
    assert not [text for text in case.get("must_not_contain", []) if text in output], told
    assert not [text for text in case.get("must_contain", []) if text not in output], told
    if "must_equal" in case:
        assert normal(output) == normal(case["must_equal"]), told


def normal(text: str) -> str:
    return text.replace("\r\n", "\n").rstrip("\n")


def mailed(system: System, case: dict[str, Any], to: str) -> str:
    [(_, mail)] = mails(system, to)
    part = mail.get_body((case["format"].replace("text", "plain"),))
    assert part is not None
    return str(part.get_content())


def quickly(seconds: float, case: dict[str, Any]) -> None:
    assert seconds < _FILE["limits"]["wall_s"], case["id"]


async def test_attacks_by_preview_create_and_inline(system: System, admin: httpx.AsyncClient) -> None:
    outcomes: dict[str, list[str]] = {}
    async with others(system):
        for case in ATTACKS:
            told = outcomes[case["id"]] = []
            for way in (by_preview, by_create, by_inline):
                started = time.monotonic()
                output = await way(system, admin, case)
                check(case, output, where=way.__name__)
                told.append("refused" if output is None else "rendered")
                if case["category"] == "resource" and output is None:
                    quickly(time.monotonic() - started, case)
    differing = {name: told for name, told in outcomes.items() if len(set(told)) > 1}
    assert not differing, "the same template must fare the same, whichever way it comes"


async def by_preview(system: System, admin: httpx.AsyncClient, case: dict[str, Any]) -> str | None:
    body = {"channels": {"email": {"subject": "S", case["format"]: case["template"]}}, "data": data_of(case)}
    answer = await post(admin, "/templates/preview", body)
    return answer.json()["channels"]["email"][case["format"]] if answer.status_code == 200 else None


async def by_create(system: System, admin: httpx.AsyncClient, case: dict[str, Any]) -> str | None:
    key = f"{case['id']}-{uuid.uuid4().hex[:6]}"
    parts = {"subject": "S", case["format"]: case["template"]}
    created = await post(admin, "/templates", {"key": key, "channels": {"email": parts}})
    if created.status_code != 201:
        assert (await admin.get(f"/templates/{key}")).status_code == 404, "nothing half done"
        return None
    return await sent(system, admin, case, template_id=key)


async def by_inline(system: System, admin: httpx.AsyncClient, case: dict[str, Any]) -> str | None:
    return await sent(system, admin, case, content={"subject": "S", case["format"]: case["template"]})


async def sent(system: System, admin: httpx.AsyncClient, case: dict[str, Any], **fields: Any) -> str | None:
    to = f"{case['id']}-{uuid.uuid4().hex[:8]}@example.com"
    request = a_mail(to, **{"data": data_of(case), **fields})
    answer = await post(admin, "/notifications", request)
    if answer.status_code != 202:
        assert (await admin.get(f"/notifications/{request['id']}")).status_code == 404, "nothing half done"
        return None
    if await ended(admin, request["id"]) != "sent":
        assert mails(system, to) == []
        return None
    return mailed(system, case, to)


async def test_attacks_straight_on_the_topic(system: System, admin: httpx.AsyncClient) -> None:
    """Nothing checks them before the worker does."""
    producer = AIOKafkaProducer(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await producer.start()
    try:
        async with others(system):
            asked: list[tuple[dict[str, Any], dict[str, Any], str]] = []
            for case in ATTACKS:
                to = f"{case['id']}-{uuid.uuid4().hex[:8]}@example.com"
                content = {"subject": "S", case["format"]: case["template"]}
                request = a_mail(to, content, data=data_of(case))
                asked.append((case, request, to))
                await producer.send("notification.requests.normal", json.dumps(request).encode(), key=b"k")
            await producer.flush()
            for case, request, to in asked:
                if case["id"] in ("xss-13", "xss-14"):  # no request at all: NUL, and a lone surrogate
                    continue
                end = await ended(admin, request["id"])
                check(case, mailed(system, case, to) if end == "sent" else None, where="the topic")
    finally:
        await producer.stop()
    for _, _, to in asked:
        assert len(mails(system, to)) <= 1


CONTENT = {"subject": "Hello", "text": "Hi"}
_OPTIONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "from": lambda value: {"from": value},
    "from_name": lambda value: {"from": f"{value} <ada@example.com>"},
    "from_name quoted": lambda value: {"from": quoted(value)},
    "reply_to": lambda value: {"reply_to": value},
    "reply_to_name": lambda value: {"reply_to": f"{value} <ada@example.com>"},
    "reply_to_name quoted": lambda value: {"reply_to": quoted(value)},
    "cc": lambda value: {"cc": [value]},
    "custom_header_value": lambda value: {"headers": {"X-Custom": value}},
    "custom_header_name": lambda value: {"headers": {value: "value"}},
    "message_id": lambda value: {"headers": {"Message-ID": value}},
    "list_unsubscribe_url": lambda value: {"headers": {"List-Unsubscribe": f"<{value}>"}},
    # From no public address, so that nothing is fetched: what is on the wire is test_email_header_injection's.
    "attachment_filename": lambda value: {"attachments": [{"url": "http://127.0.0.1/f", "filename": value}]},
}
_ELSEWHERE: dict[str, Callable[[str, str], dict[str, Any]]] = {
    "subject": lambda to, value: a_mail(to, {**CONTENT, "subject": value}),
    "template_value_in_subject": lambda to, value: a_mail(
        to, {**CONTENT, "subject": "Dear {{ v }}"}, data={"v": value}
    ),
    "body": lambda to, value: a_mail(
        to, {"subject": "Hello", "text": "{{ v }}", "html": "<p>{{ v }}</p>"}, data={"v": value}
    ),
    "to": lambda _, value: a_mail(value, CONTENT),
}


def quoted(name: str) -> str:
    return '"' + name.replace("\\", "\\\\").replace('"', '\\"') + '" <ada@example.com>'


def injected(case: dict[str, Any], to: str) -> list[dict[str, Any]]:
    """The requests that carry the value where the case says."""
    if case["field"] in _ELSEWHERE:
        return [_ELSEWHERE[case["field"]](to, case["value"])]
    found = [options(case["value"]) for place, options in _OPTIONS.items() if place.split(" ")[0] == case["field"]]
    assert found, case["field"]
    return [a_mail(to, CONTENT, options={"email": options}) for options in found]


async def test_header_injections_wherever_the_api_takes_the_field(system: System, admin: httpx.AsyncClient) -> None:
    async with others(system):
        for case in INJECTIONS:
            to = f"{case['id']}-{uuid.uuid4().hex[:6]}@example.com".lower()
            for request in injected(case, to):
                answer = await post(admin, "/notifications", request)
                if answer.status_code != 202:
                    # No request holds NUL; the builder has its own test.
                    assert case["expect"] != "one-message" or "\0" in case["value"], (case["id"], answer.text)
                    assert "victim@" not in answer.text, case["id"]
                    continue
                if await ended(admin, request["id"]) != "sent":
                    continue
                assert case["expect"] != "rejected", case["id"]
                assert_one_honest_mail(system, case, request)


def assert_one_honest_mail(system: System, case: dict[str, Any], request: dict[str, Any]) -> None:
    """One mail of this notification, to whom it was asked, with no header that nobody asked for."""
    [(content, mail)] = all_mails(system, request["id"])
    envelope = {address.strip() for address in str(mail["X-Envelope-To"]).split(",")}
    wanted = 2 if case["field"] == "cc" else 1
    assert len(envelope) == wanted, (case["id"], envelope)
    if case["field"] not in ("to", "cc"):
        assert envelope == {request["recipient"]["email"]}, case["id"]
    assert "victim@example.net" not in envelope, case["id"]
    names = [name.lower() for name in mail]
    assert "bcc" not in names, case["id"]
    assert len(names) == len(set(names)), case["id"]
    assert mail.get_content_type() in ("text/plain", "multipart/alternative"), case["id"]
    head = content.replace(b"\r\n", b"\n").split(b"\n\n")[0]
    assert b"\r" not in head, case["id"]
    if case["field"] != "body":
        plain = mail.get_body(("plain",))
        assert plain is not None
        assert normal(plain.get_content()) == "Hi", case["id"]


async def test_no_mail_went_to_anybody_who_was_not_asked(system: System) -> None:
    for _, mail in all_mails(system):
        assert "victim@example.net" not in str(mail["X-Envelope-To"])
        assert "evil@example.com" not in str(mail["X-Envelope-From"])
