"""Every bad input is a 4xx that says what is wrong and no more, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import base64
import copy
import gzip
import json
import os
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
from aiokafka import AIOKafkaConsumer, TopicPartition

from models.enums import Priority
from streams.topics import request_topic

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


PAYLOADS = Path(__file__).parents[1] / "payloads" / "http_bad_inputs.json"
CASES = json.loads(PAYLOADS.read_text())["cases"]
Count = Callable[[], Awaitable[int]]
SEND = "/api/v1/notifications"
MARKER = "content-that-no-error-may-repeat"

#: Things that an error must never hold.
LEAKS = ("Traceback", 'File "', "SELECT ", "INSERT ", "site-packages", "asyncpg", "sqlalchemy", ".py", MARKER)


def body() -> dict[str, Any]:
    """A valid request that has every field that goes with the others."""
    return {
        "id": str(uuid.uuid4()),
        "idempotency_key": uuid.uuid4().hex,
        "user_id": "u-bad-inputs",
        "channels": ["email"],
        "strategy": "all",
        "fallback_after_seconds": 60,
        "content": {"subject": "Hello {{ name }}", "text": MARKER},
        "data": {"name": "Ada", "tags": ["a"]},
        "category": "general",
        "priority": "low",
        "recipient": {
            "email": "ada@example.com",
            "phone": "+4915112345678",
            "locale": "en",
            "timezone": "Europe/Berlin",
            "device_tokens": [{"platform": "fcm", "token": "t"}],
        },
        "options": {
            "email": {"reply_to": "ada@example.com", "cc": ["bob@example.com"], "tags": ["a"]},
            "push": {"ttl_seconds": 60, "badge": 1, "collapse_key": "k"},
            "sms": {"sender": "ACME"},
        },
        "send_at": "2026-01-01T12:00:00Z",
        "expires_at": "2090-01-01T12:00:00Z",
        "metadata": {"k": "v"},
    }


FIELDS = {
    "string": [
        "id", "idempotency_key", "user_id", "strategy", "content.subject", "content.text", "category", "priority",
        "recipient.locale", "recipient.timezone", "recipient.device_tokens.0.token", "options.email.tags.0",
        "options.push.collapse_key", "options.sms.sender", "metadata.k", "channels.0",
    ],
    "integer": ["fallback_after_seconds", "options.push.ttl_seconds", "options.push.badge"],
    "datetime": ["send_at", "expires_at"],
    "email": ["recipient.email", "options.email.reply_to", "options.email.cc.0", "options.email.from"],
    "phone": ["recipient.phone"],
}  # fmt: skip


def put(whole: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy with the value at a dotted path."""
    made = copy.deepcopy(whole)
    place: Any = made
    *way, last = path.split(".")
    for step in way:
        place = place[int(step)] if isinstance(place, list) else place[step]
    place[int(last) if isinstance(place, list) else last] = value
    return made


def fits(case: dict[str, Any], status: int) -> bool:
    """Whether the case allows this status (0: the connection was closed)."""
    if status in case.get("also_ok", ()):
        return not case.get("must_reject")
    expected = case["expect_status"]
    if expected == "same-as-without":
        return status == 202
    if expected == "2xx-or-4xx":
        return 400 <= status < 500 or (200 <= status < 300 and not case.get("must_reject"))
    return status in expected


def check_answer(answer: httpx.Response) -> None:
    assert answer.elapsed.total_seconds() < 2
    if answer.status_code < 400:
        return
    assert len(answer.content) < 16 * 1024
    document = answer.json()
    assert answer.headers["content-type"] == "application/problem+json"
    assert document["status"] == answer.status_code
    assert not [leak for leak in LEAKS if leak in answer.text], answer.text


class Raw:
    """A caller below HTTP libraries."""

    def __init__(self, api: RunningApi) -> None:
        self._api = api
        self._auth = api.identity.headers("admin")["Authorization"]

    async def send(self, head: str, payload: bytes = b"", *, close: bool = False) -> httpx.Response | None:
        """The first answer; None where the connection was closed without one."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._api.port)
        lines = head.replace("AUTH", f"Authorization: {self._auth}").strip().split("\n")
        writer.write("\r\n".join(line.strip() for line in lines).encode("latin-1") + b"\r\n\r\n" + payload)
        if close:
            writer.write_eof()
        try:
            async with asyncio.timeout(4):
                return await _answer(reader, has_body=not head.lstrip().startswith("HEAD"))
        finally:
            writer.close()


async def _answer(reader: asyncio.StreamReader, *, has_body: bool) -> httpx.Response | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionResetError):
        return None
    first, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    content = await reader.readexactly(int(headers.get("content-length", 0))) if has_body else b""
    return httpx.Response(int(first.split(" ")[1]), headers=headers, content=content)


async def perform(api: RunningApi, op: dict[str, Any]) -> list[tuple[str, int]]:
    """What was done, in words, and the status that came of it."""
    return [(what, status) async for what, status in _perform(api, op)]


async def _post(api: RunningApi, content: bytes, **headers: str) -> int:
    sent = {"content-type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    answer = await api.sender.post(SEND, content=content, headers=sent)
    check_answer(answer)
    return answer.status_code


async def _perform(api: RunningApi, op: dict[str, Any]) -> Any:  # noqa: PLR0912  one branch a kind
    kind = op["kind"]
    if kind == "raw":
        yield kind, await _post(api, base64.b64decode(op["body_b64"]), content_type=op["content_type"])
    elif kind == "encode_body":
        yield kind, await _post(api, json.dumps(body()).encode(op["encoding"]))
    elif kind == "duplicate_key":
        once = json.dumps(body())
        yield kind, await _post(api, (once[:-1] + ", " + json.dumps(body() | {"user_id": "u-2"})[1:]).encode())
    elif kind == "big_body":
        yield kind, await _post(api, orjson.dumps(put(body(), "content.text", "x" * op["bytes"])))
    elif kind == "many_items":
        for path in ("channels", "options.email.tags", "options.email.cc", "recipient.device_tokens"):
            yield path, await _post(api, orjson.dumps(put(body(), path, ["x"] * op["n"])))
    elif kind == "gzip_bomb":
        bomb = gzip.compress(b" " * (op["inflated"] // 64), compresslevel=1)
        yield kind, await _post(api, bomb, content_encoding="gzip")
    elif kind == "content_type":
        yield kind, await _post(api, orjson.dumps(body()), content_type=op["value"])
    elif kind == "each_field":
        for path in FIELDS[op["type"]]:
            changed = put(body(), path, op["value"])
            yield path, await _post(api, json.dumps(changed).encode())
    elif kind == "extra_field":
        yield kind, await _post(api, json.dumps(body() | {op["name"]: op["value"]}).encode())
    elif kind in ("path_id", "query", "header", "method"):
        async for done in _perform_line(api, op):
            yield done
    else:
        async for done in _perform_framing(api, op):
            yield done


async def _perform_line(api: RunningApi, op: dict[str, Any]) -> Any:
    raw = Raw(api)
    kind, value = op["kind"], op["value"]
    if kind == "path_id":
        for method, path in PATH_IDS:
            target = path.replace("{id}", value)
            answer = await raw.send(f"{method} {target} HTTP/1.1\nHost: x\nAUTH")
            yield f"{method} {path}", _checked(answer)
    elif kind == "query":
        for path in LISTS:
            answer = await raw.send(f"GET {path}?{value} HTTP/1.1\nHost: x\nAUTH")
            yield path, _checked(answer)
    elif kind == "header":
        payload = orjson.dumps({name: field for name, field in body().items() if name != "idempotency_key"})
        others = "" if op["name"] == "Authorization" else "AUTH\n"
        line = f"{op['name']}: {value}"
        head = (
            f"POST {SEND} HTTP/1.1\nHost: x\n{others}Content-Type: application/json\nContent-Length: {len(payload)}\n"
        )
        yield op["name"], _checked(await raw.send(head + line, payload))
    else:
        for path in (SEND, f"{SEND}/{uuid.uuid4()}", "/health", "/"):
            yield path, _checked(await raw.send(f"{value} {path} HTTP/1.1\nHost: x\nAUTH"))


async def _perform_framing(api: RunningApi, op: dict[str, Any]) -> Any:
    raw, payload = Raw(api), orjson.dumps(body())
    head = f"POST {SEND} HTTP/1.1\nHost: x\nAUTH\nContent-Type: application/json\n"
    if op["kind"] == "content_length_lie":
        yield "lie", _checked(await raw.send(head + f"Content-Length: {op['declared']}", payload))
    elif op["kind"] == "both_te_cl":
        chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(payload), payload)
        lines = f"Content-Length: {len(payload)}\nTransfer-Encoding: chunked"
        yield "both", _checked(await raw.send(head + lines, chunk))
    else:
        pytest.fail(f"no such operation: {op['kind']}")


def _checked(answer: httpx.Response | None) -> int:
    if answer is None:
        return 0
    if answer.status_code >= 400:
        assert len(answer.content) < 16 * 1024
        assert not [leak for leak in LEAKS if leak in answer.text], answer.text
        if answer.content:
            assert answer.json()["status"] == answer.status_code
    return answer.status_code


PATH_IDS = [
    ("GET", f"{SEND}/{{id}}"),
    ("POST", f"{SEND}/{{id}}/cancel"),
    ("POST", "/api/v1/inbox/{id}/read"),
    ("DELETE", "/api/v1/users/u-1/devices/{id}"),
]
LISTS = [SEND, "/api/v1/templates", "/api/v1/categories"]


@pytest.fixture(scope="module")
async def consumer(api: RunningApi) -> AsyncIterator[AIOKafkaConsumer]:
    async with AIOKafkaConsumer(bootstrap_servers=api.service.settings.kafka_bootstrap_servers) as started:
        yield started


@pytest.fixture
def offsets(api: RunningApi, consumer: AIOKafkaConsumer) -> Count:
    """Counts the records of the request topics."""
    settings = api.service.settings
    partitions = [
        TopicPartition(settings.kafka_topic_prefix + request_topic(priority), number)
        for priority in Priority
        for number in range(settings.kafka_partitions)
    ]

    async def count() -> int:
        return sum((await consumer.end_offsets(partitions)).values())

    return count


def resident_mib() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 2**20


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
async def test_a_bad_input_does_no_harm(api: RunningApi, offsets: Count, case: dict[str, Any]) -> None:
    before = await offsets()
    done = await perform(api, case["op"])
    assert done
    wrong = [(what, status) for what, status in done if not fits(case, status)]
    assert not wrong, case["why"]
    taken = sum(1 for _, status in done if status == 202)
    assert await offsets() - before == taken
    assert await _post(api, orjson.dumps(body())) == 202


async def test_memory_stays_where_it_was(api: RunningApi) -> None:
    await _post(api, orjson.dumps(body()))
    before = resident_mib()
    for case in CASES:
        if case["op"]["kind"] != "gzip_bomb":
            await perform(api, case["op"])
    assert resident_mib() - before < 64


def _more() -> Iterator[tuple[str, bytes, int]]:
    """Cases of our own: what JSON decoders, Postgres and Kafka choke on."""
    text = json.dumps(body())
    yield "deep", text.replace('["a"]', "[" * 900 + "]" * 900).encode(), 400
    yield "rather deep", text.replace('["a"]', "[" * 100 + "]" * 100).encode(), 422
    yield "very deep", text.replace('["a"]', "[" * 100_000 + "]" * 100_000).encode(), 400
    yield "NaN", text.replace('["a"]', "NaN").encode(), 422
    yield "infinity", text.replace('["a"]', "1e999").encode(), 422
    yield "long integer", text.replace('["a"]', "9" * 5000).encode(), 400
    yield "integer beyond 64 bits", text.replace('["a"]', "9" * 30).encode(), 422
    yield "long integer field", text.replace('"badge": 1', '"badge": ' + "9" * 5000).encode(), 400
    yield "NUL", text.replace('"Ada"', '"a\\u0000b"').encode(), 422
    yield "NUL key", text.replace('"name": "Ada"', '"na\\u0000me": "Ada"').encode(), 422
    yield "lone surrogate", text.replace('"Ada"', '"a\\ud800b"').encode(), 400
    yield "surrogate user", text.replace("u-bad-inputs", "a\\udfff").encode(), 400
    yield "bytes that are no UTF-8", text.replace("Ada", "\x80").encode("latin-1"), 400
    yield "BOM", b"\xef\xbb\xbf" + text.encode(), 400
    yield "trailing", text.encode() + b"{}", 400
    yield "list", b"[" + text.encode() + b"]", 422
    yield "true", b"true", 422
    yield "null field", orjson.dumps(put(body(), "recipient.email", None)), 422
    yield "both templates", orjson.dumps(body() | {"template_id": "x"}), 422
    yield (
        "unknown template",
        orjson.dumps({n: v for n, v in body().items() if n != "content"} | {"template_id": "x"}),
        422,
    )
    yield "missing variable", orjson.dumps(put(body(), "content.text", "{{ order.total }}")), 422
    yield "mail header", orjson.dumps(put(body(), "options.email.headers", {"Bcc": "eve@example.com"})), 422
    yield "CRLF in from", orjson.dumps(put(body(), "options.email.from", "a@example.com\r\nBcc: eve@example.com")), 422


@pytest.mark.parametrize(("payload", "status"), [(p, s) for _, p, s in _more()], ids=[name for name, _, _ in _more()])
async def test_what_decoders_choke_on_is_refused(api: RunningApi, offsets: Count, payload: bytes, status: int) -> None:
    before = await offsets()
    assert await _post(api, payload) == status
    assert await offsets() == before


FRAMES = {
    "body that never comes": ("Content-Length: 100", b"{", (408,)),
    "chunks without end": (
        "Transfer-Encoding: chunked",
        b"80000\r\n" + b" " * 0x80000 + b"\r\n1\r\n \r\n0\r\n\r\n",
        (413,),
    ),
    "bad chunk": ("Transfer-Encoding: chunked", b"zz\r\n", (400, 0)),
    "negative length": ("Content-Length: -1", b"", (400,)),
    "two lengths": ("Content-Length: 2\nContent-Length: 3", b"{}", (400,)),
    "huge length": ("Content-Length: 99999999999999999999", b"", (400,)),
    "length over the cap": ("Content-Length: 600000", b"", (413,)),
    "no body": ("X-A: b", b"", (400, 415)),
    "many headers": ("\n".join(f"X-{n}: y" for n in range(500)), b"", (431,)),
    "folded header": ("X-A: b\n c", b"", (400, 415)),
    "NUL in a header": ("X-A: b\x00c", b"", (400,)),
    "two content types": ("Content-Type: text/plain\nContent-Length: 2", b"{}", (415,)),
}


@pytest.mark.parametrize("name", FRAMES)
async def test_odd_framing_is_refused(api: RunningApi, name: str) -> None:
    lines, payload, statuses = FRAMES[name]
    head = f"POST {SEND} HTTP/1.1\nHost: x\nAUTH\nContent-Type: application/json\n{lines}"
    answer = await Raw(api).send(head, payload)
    assert _checked(answer) in statuses


async def test_a_target_that_is_too_long_is_refused(api: RunningApi) -> None:
    answer = await Raw(api).send(f"GET /health?{'q' * 40_000} HTTP/1.1\nHost: x")
    assert answer is not None and answer.json()["code"] == "uri_too_long"


async def test_request_ids_are_kept_only_when_harmless(api: RunningApi) -> None:
    kept = await api.sender.get("/health", headers={"X-Request-ID": "abc-1.2_3"})
    assert kept.headers["x-request-id"] == "abc-1.2_3"
    for odd in (b"a b", b"x" * 129, b"<script>", "é".encode()):
        answer = await api.sender.get("/health", headers=[(b"X-Request-ID", odd)])
        assert len(answer.headers["x-request-id"]) == 32


QUERIES = [
    "limit=0",
    "limit=201",
    "limit=x",
    "limit=1e3",
    "cursor=x",
    "cursor=%00",
    "cursor=" + "A" * 32 + "=",
    "cursor=é",
]


@pytest.mark.parametrize("query", QUERIES)
@pytest.mark.parametrize("path", LISTS)
async def test_a_query_that_makes_no_sense_is_named(api: RunningApi, path: str, query: str) -> None:
    answer = await api.sender.get(f"{path}?{query}")
    check_answer(answer)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == query.partition("=")[0]
