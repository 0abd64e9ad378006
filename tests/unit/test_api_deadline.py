"""Every answer comes within the promised time, whatever a handler waits for."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.types import Message

from api.middleware import Edge


class Exchange:
    """One request without body, and what was answered."""

    def __init__(self, *, pause_seconds: float = 0.0) -> None:
        self.sent: list[Message] = []
        self._pause_seconds = pause_seconds

    async def receive(self) -> Message:
        await asyncio.sleep(self._pause_seconds)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    @property
    def status(self) -> int:
        status: int = self.sent[0]["status"]
        return status


async def ask(app: Any, exchange: Exchange) -> None:
    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    await Edge(app, answer_seconds=0.1)(scope, exchange.receive, exchange.send)


async def answer(send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def test_a_handler_that_hangs_is_answered_for_with_503() -> None:
    cleaned = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            cleaned.append(True)

    exchange = Exchange()
    async with asyncio.timeout(5):
        await ask(app, exchange)
    assert exchange.status == 503
    assert (b"retry-after", b"1") in exchange.sent[0]["headers"]
    assert cleaned == [True]


async def test_the_time_that_a_caller_takes_is_theirs() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await answer(send)

    exchange = Exchange(pause_seconds=0.3)
    await ask(app, exchange)
    assert exchange.status == 200


async def test_an_answer_that_has_begun_may_last() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.sleep(0.3)
        await send({"type": "http.response.body", "body": b"ok"})

    exchange = Exchange()
    await ask(app, exchange)
    assert [message["type"] for message in exchange.sent] == ["http.response.start", "http.response.body"]


async def test_what_cleans_up_too_late_may_not_answer_any_more() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        try:
            await asyncio.sleep(3600)
        finally:
            await receive()

    exchange = Exchange()
    await ask(app, exchange)
    assert exchange.status == 503
