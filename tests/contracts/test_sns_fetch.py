"""The one way in which callbacks of AWS ask something of the outside."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from models.errors import Unavailable
from streams.providers.sns_certificates import fetch


class Outside:
    def __init__(self) -> None:
        self.asked: list[str] = []
        app = web.Application()
        app.router.add_get("/{what}", self._answer)
        self.server = TestServer(app, host="127.0.0.1")

    async def _answer(self, request: web.Request) -> web.Response:
        what = request.match_info["what"]
        self.asked.append(request.path_qs)
        if what == "hang":
            await asyncio.sleep(3600)
        if what == "redirect":
            return web.Response(status=302, headers={"Location": "/elsewhere"})
        if what.isdecimal():
            return web.Response(status=int(what))
        return web.Response(body=b"x" * (64 * 1024 + (1 if what == "large" else 0)))


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    outside = Outside()
    await outside.server.start_server()
    yield outside
    await outside.server.close()


async def test_the_answer_is_the_body(outside: Outside) -> None:
    assert await fetch(f"http://127.0.0.1:{outside.server.port}/certificate?x=%2F") == b"x" * 64 * 1024
    assert outside.asked == ["/certificate?x=%2F"]


@pytest.mark.parametrize("what", ["redirect", "large", "500", "503", "429", "204"])
async def test_no_good_answer_now(outside: Outside, what: str) -> None:
    with pytest.raises(Unavailable):
        await fetch(f"http://127.0.0.1:{outside.server.port}/{what}")
    assert outside.asked == [f"/{what}"]


@pytest.mark.parametrize("what", ["403", "404", "400"])
async def test_a_plain_no(outside: Outside, what: str) -> None:
    with pytest.raises(FileNotFoundError):
        await fetch(f"http://127.0.0.1:{outside.server.port}/{what}")


async def test_silence_ends_after_two_seconds(outside: Outside) -> None:
    async with asyncio.timeout(10):
        with pytest.raises(Unavailable):
            await fetch(f"http://127.0.0.1:{outside.server.port}/hang")


async def test_nobody_there(outside: Outside) -> None:
    port = outside.server.port
    await outside.server.close()
    with pytest.raises(Unavailable):
        await fetch(f"http://127.0.0.1:{port}/certificate")
