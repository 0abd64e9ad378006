"""Reading bodies: bounded, JSON only, and decoded once by the strict models."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, ValidationError
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from api import headers
from api.errors import FieldError, Problem, invalid
from models.requests import MAX_REQUEST_BYTES, refusals
from streams.deadline import Deadline

M = TypeVar("M", bound=BaseModel)

#: A sender that stops in the middle of a body for longer is answered with 408.
BODY_IDLE_SECONDS = 1.5
_SMALL_BYTES = 16 * 1024
#: No field takes more, save what is inside `data`.
_MAX_ITEMS = 1000
#: Stands for a length that can't be read: larger than every limit.
_ABSURD_BYTES = 2**63
_JSON = re.compile(rb'^application/json\s*(;\s*charset\s*=\s*"?utf-?8"?\s*)?;?\s*$', re.IGNORECASE)


async def read(request: Request, model: type[M]) -> M:
    """The body as a model.

    Raises:
        Problem: 400, 408, 413, 415 or 422, naming the fields that are wrong.
    """
    return parsed(model, await read_bytes(request))


def parsed(model: type[M], raw: bytes) -> M:
    """Bytes from outside, decoded and validated.

    Raises:
        Problem: 400 for what is no JSON, 422 for what breaks a rule.
    """
    if len(raw) > _SMALL_BYTES:
        _refuse_crowds(raw)
    try:
        return model.model_validate_json(raw)
    except ValidationError as error:
        found = [FieldError(refused.field, refused.reason) for refused in refusals(error)]
        if error.errors(include_input=False, include_url=False, include_context=False)[0]["type"] == "json_invalid":
            raise Problem("malformed", "The body is not valid JSON in UTF-8.") from None
        raise invalid(found) from None


def _refuse_crowds(raw: bytes) -> None:
    """Refuses early what would take seconds to refuse item by item: 100,000 wrong addresses are as many errors.

    `data` is the caller's own, and looked at by a walk that stops at the first fault.
    """
    try:
        level: list[Any] = [orjson.loads(raw)]
    except orjson.JSONDecodeError:
        return  # The models' own decoder says what is wrong with it.
    while level:
        below: list[Any] = []
        for value in level:
            if isinstance(value, list | dict) and len(value) > _MAX_ITEMS:
                raise invalid([FieldError("body", f"holds a list or object with more than {_MAX_ITEMS} items")])
            if isinstance(value, dict):
                below.extend(item for name, item in value.items() if name != "data")
            elif isinstance(value, list):
                below.extend(value)
        level = below


async def read_bytes(request: Request, *, may_be_empty: bool = False) -> bytes:
    """The body's bytes, at most MAX_REQUEST_BYTES of them, whatever its headers promise.

    Raises:
        Problem: 408, 413 or 415.
    """
    size = _announced(request)
    if size is not None and size > MAX_REQUEST_BYTES:
        raise _too_large(MAX_REQUEST_BYTES)
    if size == 0 and may_be_empty:
        return b""
    _check_type(request)
    return await _collected(request, MAX_REQUEST_BYTES)


async def read_raw(request: Request, *, most_bytes: int) -> bytes:
    """The body's bytes as they came, of whatever type; at most so many, whatever its headers promise.

    Raises:
        Problem: 408 or 413.
    """
    size = _announced(request)
    if size is not None and size > most_bytes:
        raise _too_large(most_bytes)
    return await _collected(request, most_bytes)


async def chunks(request: Request) -> AsyncIterator[bytes]:
    """The body piece by piece, however long it is; nothing is read ahead.

    Raises:
        Problem: 408.
    """
    while True:
        message = await _next(request)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        yield message.get("body", b"")
        if not message.get("more_body", False):
            return


async def _collected(request: Request, most_bytes: int) -> bytes:
    chunks: list[bytes] = []
    total = 0
    while True:
        message = await _next(request)
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        total += len(chunk)
        if total > most_bytes:
            raise _too_large(most_bytes)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _next(request: Request) -> Message:
    try:
        with Deadline(BODY_IDLE_SECONDS):
            return await request.receive()
    except TimeoutError:
        raise Problem("timeout", headers={"Connection": "close"}) from None


def _announced(request: Request) -> int | None:
    """What Content-Length says; None without one, where a body may follow in chunks."""
    length = headers.first(request, b"content-length")
    if length is None:
        return 0 if headers.first(request, b"transfer-encoding") is None else None
    return int(length) if length.isascii() and length.isdigit() and len(length) < 20 else _ABSURD_BYTES


def _check_type(request: Request) -> None:
    types = headers.values(request, b"content-type")
    if len(types) != 1 or _JSON.match(types[0]) is None:
        raise Problem("unsupported_media_type", "Content-Type must be application/json.")
    coding = headers.first(request, b"content-encoding")
    if coding is not None and coding.strip().lower() not in ("identity", ""):
        raise Problem("unsupported_media_type", "Content-Encoding is not offered; send the body as it is.")


def _too_large(most_bytes: int) -> Problem:
    return Problem("too_large", f"A body has at most {most_bytes} bytes.")
