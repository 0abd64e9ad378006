"""Bodies: bounded, JSON, UTF-8; whatever the headers promise."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
import pytest
from pydantic import BaseModel
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from api import bodies
from api.bodies import parsed, read_bytes
from api.errors import Problem
from models.requests import MAX_REQUEST_BYTES, NotificationRequest

JSON = {"content-type": "application/json"}


def request(chunks: Sequence[bytes | None], headers: dict[str, str] | Sequence[tuple[str, str]] = JSON) -> Request:
    """A request whose body comes in these chunks; None: the caller goes away."""
    pairs = headers.items() if isinstance(headers, dict) else headers
    messages: list[Message] = [
        {"type": "http.disconnect"}
        if chunk is None
        else {"type": "http.request", "body": chunk, "more_body": number < len(chunks) - 1}
        for number, chunk in enumerate(chunks)
    ]

    async def receive() -> Message:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop(0)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/",
        "headers": [
            *((name.encode("latin-1"), value.encode("latin-1")) for name, value in pairs),
            (b"transfer-encoding", b"chunked"),
        ],
    }
    return Request(scope, receive)


async def kind(made: Request) -> str:
    with pytest.raises(Problem) as caught:
        await read_bytes(made)
    return caught.value.kind


async def test_chunks_are_joined() -> None:
    assert await read_bytes(request([b'{"a"', b": 1", b"}"])) == b'{"a": 1}'
    assert await read_bytes(request([b"{}"])) == b"{}"


@pytest.mark.parametrize(
    "value",
    [
        "application/json",
        "Application/JSON",
        "application/json; charset=utf-8",
        'application/json;charset="UTF-8"',
        "application/json;",
        "application/json ; charset = utf8",
    ],
)
async def test_json_in_utf8_is_taken(value: str) -> None:
    assert await read_bytes(request([b"{}"], {"content-type": value})) == b"{}"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "text/plain",
        "application/xml",
        "application/json; charset=utf-7",
        "application/json, text/plain",
        "application/jsonp",
        "multipart/form-data; boundary=x",
        "application/json; charset=utf-16",
        "json",
        "é",
    ],
)
async def test_other_types_are_not(value: str) -> None:
    assert await kind(request([b"{}"], {"content-type": value})) == "unsupported_media_type"


async def test_one_type_is_needed() -> None:
    assert await kind(request([b"{}"], {})) == "unsupported_media_type"
    twice = [("content-type", "application/json"), ("content-type", "text/plain")]
    assert await kind(request([b"{}"], twice)) == "unsupported_media_type"


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "gzip, identity", "x"])
async def test_compressed_bodies_are_not_unpacked(coding: str) -> None:
    assert await kind(request([b"{}"], JSON | {"content-encoding": coding})) == "unsupported_media_type"
    assert await read_bytes(request([b"{}"], JSON | {"content-encoding": "Identity"})) == b"{}"


async def test_the_cap_holds_whatever_was_promised() -> None:
    full = b" " * MAX_REQUEST_BYTES
    assert await read_bytes(request([full])) == full
    assert await kind(request([full, b" "])) == "too_large"
    assert await kind(request([full, b" "], JSON | {"content-length": "2"})) == "too_large"
    for length in (str(MAX_REQUEST_BYTES + 1), "9" * 30, "-1", "x"):
        assert await kind(request([b"{}"], JSON | {"content-length": length})) == "too_large"


async def test_a_caller_who_stops_in_the_middle_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "BODY_IDLE_SECONDS", 0.01)
    stuck = request([b"{"])

    async def more() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    stuck._receive = more
    assert await kind(stuck) == "timeout"


async def test_a_caller_who_goes_away_gets_no_answer() -> None:
    with pytest.raises(ClientDisconnect):
        await read_bytes(request([b"{", None]))


class _Model(BaseModel):
    word: str
    data: dict[str, object] = {}


def errors(raw: bytes, model: type[BaseModel] = NotificationRequest) -> tuple[str, list[str]]:
    with pytest.raises(Problem) as caught:
        parsed(model, raw)
    return caught.value.kind, [error.field for error in caught.value.errors]


@pytest.mark.parametrize("raw", [b"", b"{", b'{"a":1,}', '{"user_id": "u"}'.encode("utf-16"), b"\xff", b'"\\ud800"'])
def test_what_is_no_json_is_malformed(raw: bytes) -> None:
    assert errors(raw) == ("malformed", [])


@pytest.mark.parametrize("raw", [b"null", b"[]", b'"x"', b"1", b"true"])
def test_json_that_is_no_object_is_invalid(raw: bytes) -> None:
    assert errors(raw)[0] == "invalid"


def test_all_wrong_fields_are_named() -> None:
    found = errors(orjson.dumps({"user_id": 1, "category": "a b", "priority": "urgent", "content": {"text": "x"}}))
    assert found == ("invalid", ["user_id", "category", "priority"])


def test_crowds_are_refused_before_they_are_looked_at() -> None:
    crowd = {"word": "x", "items": ["a"] * 20_000}
    assert errors(orjson.dumps(crowd), _Model) == ("invalid", ["body"])
    assert errors(orjson.dumps({"a": {"b": {str(n): n for n in range(5000)}}}), _Model) == ("invalid", ["body"])
    assert parsed(_Model, orjson.dumps({"word": "x", "data": {"rows": list(range(20_000))}})).word == "x"
