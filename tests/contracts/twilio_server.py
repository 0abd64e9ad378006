"""Twilio's Messages resource, for the faults that Prism can't play; what it must look like is Prism's to check."""

from __future__ import annotations

import asyncio
import ssl
from base64 import b64encode
from typing import Any
from urllib.parse import parse_qs, urlsplit

from aiohttp import web
from aiohttp.test_utils import TestServer

ACCOUNT = "AC" + "0" * 32
TOKEN = "twilio-test-token-0123456789"
PHONE = "+4915112345678"
BODY = "Hello Ada, your code is 314159."
TAKEN = "SM" + "1" * 32


def echo(code: int, status: int) -> dict[str, Any]:
    """An error as Twilio writes it, which repeats what was sent."""
    return {
        "code": code,
        "message": f"The number {PHONE} with {BODY} and {TOKEN} is wrong",
        "more_info": f"https://www.twilio.com/docs/errors/{code}",
        "status": status,
    }


class TwilioServer:
    """The API on loopback. `fault` is `hang`, `reset`, `cut`, …, or nothing."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.forms: list[dict[str, str]] = []
        self.connections: set[Any] = set()
        self.behave()
        app = web.Application()
        messages = f"/2010-04-01/Accounts/{ACCOUNT}/Messages"
        app.router.add_post(f"{messages}.json", self._create)
        app.router.add_get(f"{messages}/{{sid}}.json", self._fetch)
        app.router.add_route("*", "/elsewhere", self._elsewhere)
        self._tls = tls
        self._server = TestServer(app, host="127.0.0.1", scheme="https" if tls else "http")

    async def start(self) -> None:
        """Listens on a free port."""
        await self._server.start_server(ssl=self._tls)
        self.url = f"{self._server.scheme}://127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        """Goes away."""
        await self._server.close()

    def taken(self) -> list[str]:
        """Delivery ids, from the callbacks' addresses."""
        return [parse_qs(urlsplit(form["StatusCallback"]).query)["delivery_id"][0] for form in self.forms]

    def behave(self) -> None:
        """Takes messages."""
        self.status, self.headers, self.fault = 201, {}, ""
        self.answer: Any = {"sid": TAKEN, "status": "queued", "error_code": None}
        self.message: Any = {"sid": TAKEN, "status": "delivered", "error_code": None}

    def misbehave(self, how: str) -> None:
        """A status with Twilio's code after a blank, or a fault."""
        status, _, code = how.partition(" ")
        if not status.isdecimal():
            self.fault = how
            return
        self.status = int(status)
        self.answer = echo(int(code), self.status) if code else {}
        if 300 <= self.status < 400:
            self.headers = {"Location": f"{self.url}/elsewhere"}

    def _knows(self, request: web.Request) -> bool:
        pair = b64encode(f"{ACCOUNT}:{TOKEN}".encode()).decode()
        return request.headers.get("Authorization") == f"Basic {pair}"

    async def _create(self, request: web.Request) -> web.StreamResponse:
        form = parse_qs((await request.read()).decode(), keep_blank_values=True, strict_parsing=True)
        self.connections.add(request.transport)
        if not self._knows(request):
            return web.json_response(echo(20003, 401), status=401)
        if self.fault:
            await self._fail(request)
        if self.status < 300:
            self.forms.append({name: values[0] for name, values in form.items()})
        return web.json_response(self.answer, status=self.status, headers=self.headers)

    async def _fetch(self, request: web.Request) -> web.StreamResponse:
        if self.fault:
            await self._fail(request)
        if not self._knows(request) or request.match_info["sid"] != TAKEN:
            return web.json_response(echo(20404, 404), status=404)
        return web.json_response(self.message)

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """Where a redirect leads: who follows it is told that all is well."""
        return web.json_response({"sid": TAKEN}, status=201)

    async def _fail(self, request: web.Request) -> None:
        assert request.transport is not None
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "cut":
            request.transport.write(b"HTTP/1.1 201 Cre")
        if self.fault == "cut_body":
            request.transport.write(b"HTTP/1.1 201 Created\r\nContent-Length: 100\r\n\r\nhalf")
        if self.fault == "garbage":
            request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        request.transport.close()
        raise web.HTTPInternalServerError
