"""SendGrid's mail/send as its own OpenAPI document describes it: each request is validated against the schema."""

from __future__ import annotations

import asyncio
import json
import ssl
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from jsonschema import Draft202012Validator

from tests.contracts.deliveries import API_KEY, PAYLOADS, SUBJECT, TO

_DOCUMENT = json.loads((PAYLOADS / "sendgrid" / "mail_send_openapi.json").read_text())
_BODY = _DOCUMENT["paths"]["/mail/send"]["post"]["requestBody"]["content"]["application/json"]["schema"]

#: Answers in SendGrid's format that repeat what was sent, as vendors do.
ECHO = {"errors": [{"message": f"{TO} {SUBJECT} {API_KEY} is wrong", "field": "personalizations.0.to", "help": None}]}


def complaints(body: Any) -> list[str]:
    """What the OpenAPI document has against a request; it allows unknown keys, this doesn't."""
    validator = Draft202012Validator(
        {**_BODY, "components": _DOCUMENT["components"]}, format_checker=Draft202012Validator.FORMAT_CHECKER
    )
    found = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(body)]
    return found + [f"unknown key {key}" for key in body.keys() - _BODY["properties"].keys()]


class SendGridServer:
    """The API on loopback. `fault` is `hang`, `reset`, `cut`, or nothing."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        self.connections: set[Any] = set()
        self.behave()
        app = web.Application(client_max_size=30 * 1024 * 1024)
        app.router.add_post("/v3/mail/send", self._send)
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
        """Delivery ids, from the custom arguments."""
        return [body["personalizations"][0]["custom_args"]["delivery_id"] for body in self.bodies]

    def behave(self) -> None:
        """Takes messages."""
        self.status, self.headers, self.answer, self.fault = 202, {"X-Message-Id": "14c5d75ce93"}, None, ""

    def misbehave(self, how: str) -> None:
        """A status, or a fault."""
        if how.isdecimal():
            self.status, self.answer = int(how), ECHO
            if 300 <= self.status < 400:
                self.headers = {"Location": f"{self.url}/elsewhere"}
        else:
            self.fault = how

    async def _send(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.connections.add(request.transport)
        self.complaints += complaints(body)
        if request.headers.get("Authorization") != f"Bearer {API_KEY}":
            return web.json_response(ECHO, status=401)
        if self.fault:
            await self._fail(request)
        if self.status >= 300:
            return web.json_response(self.answer, status=self.status, headers=self.headers)
        self.bodies.append(body)
        return web.Response(status=self.status, headers=self.headers)

    async def _elsewhere(self, request: web.Request) -> web.Response:
        """Where a redirect leads: who follows it is told that all is well."""
        return web.Response(status=202)

    async def _fail(self, request: web.Request) -> None:
        assert request.transport is not None
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "cut":
            request.transport.write(b"HTTP/1.1 202 Acc")
        if self.fault == "cut_body":
            request.transport.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 100\r\n\r\nhalf")
        if self.fault == "garbage":
            request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        request.transport.close()
        raise web.HTTPInternalServerError
