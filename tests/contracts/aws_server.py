"""AWS as the tests have it: moto takes the messages, and what stands before it checks signatures and plays faults."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime
from email import message_from_string
from typing import Any
from unittest import mock

import aiohttp
from aiobotocore.credentials import AioCredentials
from aiohttp import web
from aiohttp.test_utils import TestServer
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest

from tests.contracts.deliveries import API_KEY, SUBJECT, TO

REGION = "us-east-1"
SECRET_KEY = "an-aws-secret-key-0123456789"
_START_SECONDS = 60


def credentials(secret: str = SECRET_KEY, token: str | None = None) -> AioCredentials:
    """Keys that this AWS knows."""
    return AioCredentials("AKIATEST", secret, token)


class Moto:
    """moto_server on a free port: SES and SNS by others."""

    def __init__(self) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "AWS_ACCESS_KEY_ID": "moto", "AWS_SECRET_ACCESS_KEY": "moto"},
        )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.data()
            except OSError:
                assert time.monotonic() < deadline, "moto_server does not start"
                assert self._process.poll() is None, "moto_server has ended"
                time.sleep(0.1)
            else:
                return

    def stop(self) -> None:
        """Ends it."""
        self._process.terminate()
        self._process.wait()

    def reset(self, *identities: str) -> None:
        """Forgets everything but who may write."""
        self._post("/moto-api/reset", b"")
        for identity in identities:
            self._post("/v2/email/identities", json.dumps({"EmailIdentity": identity}).encode())

    def data(self) -> dict[str, Any]:
        """All that it holds."""
        with urllib.request.urlopen(f"{self.url}/moto-api/data.json", timeout=5) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def mails(self) -> list[dict[str, Any]]:
        """What SES took."""
        found: list[dict[str, Any]] = self.data().get("ses", {}).get("RawMessage", [])
        return found

    def messages(self) -> list[dict[str, Any]]:
        """What SNS took."""
        found: list[dict[str, Any]] = self.data().get("sns", {}).get("SMS", [])
        return found

    def _post(self, path: str, body: bytes) -> None:
        request = urllib.request.Request(f"{self.url}{path}", data=body, method="POST")
        request.add_header(
            "Authorization", f"AWS4-HMAC-SHA256 Credential=moto/20260101/{REGION}/ses/aws4_request, Signature=x"
        )
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=5):
            pass


class AwsServer:
    """In front of moto: holds each request to botocore's own signature, and misbehaves on command.

    `fault` is `hang`, `reset`, `cut`, `cut_body`, `garbage`, or nothing; `answer` replaces moto's.
    """

    def __init__(self, moto: Moto | None, *, service: str) -> None:
        """Without moto it can say no only."""
        self._moto = moto
        self.service = service
        self.complaints: list[str] = []
        self.connections: set[Any] = set()
        self.paths: list[str] = []
        self.bodies: list[bytes] = []
        self.behave()
        app = web.Application(client_max_size=50_000_000)
        app.router.add_route("*", "/{path:.*}", self._take)
        self._server = TestServer(app, host="127.0.0.1")
        self._session: aiohttp.ClientSession | None = None

    @property
    def moto(self) -> Moto:
        """Who takes the messages."""
        assert self._moto is not None
        return self._moto

    async def start(self) -> None:
        """Listens on a free port."""
        self._session = aiohttp.ClientSession(auto_decompress=False)
        await self._server.start_server()
        self.url = f"http://127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        """Goes away."""
        await self._server.close()
        if self._session is not None:
            await self._session.close()

    def taken(self) -> list[str]:
        """Delivery ids: of an e-mail's Message-ID, or of an SMS's text, which the tests write there."""
        if self.service == "ses":
            mails = [message_from_string(mail["raw_data"]) for mail in self.moto.mails()]
            return [mail["Message-ID"].strip("<>").split(".", 1)[0] for mail in mails]
        return [message["message"].rsplit(" ", 1)[1] for message in self.moto.messages()]

    def behave(self) -> None:
        """Hands everything to moto."""
        self.fault, self.answer = "", None

    def misbehave(self, how: str) -> None:
        """A fault, a status, or one with AWS's name for an error, as in `400 MessageRejected`."""
        status, _, code = how.partition(" ")
        if status.isdecimal():
            self.says(int(status), code)
        else:
            self.fault = how

    def says(self, status: int, code: str, text: str = "", headers: dict[str, str] | None = None) -> None:
        """Answers everything with an error, in the service's format; the text repeats what was sent, as vendors do."""
        text = text or f"{TO} {SUBJECT} {API_KEY} is wrong"
        if not code:
            body = "<html>Bad Gateway</html>"
        elif self.service == "ses":
            body = json.dumps({"__type": f"com.amazonaws.sesv2#{code}", "message": text})
        else:
            body = (
                '<ErrorResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><Error><Type>Sender</Type>'
                f"<Code>{code}</Code><Message>{text}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
            )
        self.answer = (status, body, {"Location": f"{self.url}/elsewhere"} if status // 100 == 3 else headers or {})

    async def _take(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        self.connections.add(request.transport)
        self.paths.append(request.path)
        self.bodies.append(body)
        if not self._is_signed(request, body):
            self.says(403, "SignatureDoesNotMatch")
        if self.fault:
            await self._fail(request)
        if self.answer is not None:
            status, text, headers = self.answer
            return web.Response(status=status, text=text, headers=headers)
        assert self._session is not None
        headers = {name: request.headers[name] for name in ("Authorization", "Content-Type", "X-Amz-Date")}
        async with self._session.request(
            request.method, f"{self.moto.url}{request.path_qs}", data=body, headers=headers
        ) as answer:
            return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

    def _is_signed(self, request: web.Request, body: bytes) -> bool:
        """As botocore signs the same request at the same moment with the same keys."""
        if "X-Amz-Date" not in request.headers:
            return False
        moment = datetime.strptime(request.headers["X-Amz-Date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        same = AWSRequest(
            request.method,
            f"{self.url}{request.path_qs}",
            data=body,
            headers={"Content-Type": request.headers["Content-Type"]},
        )
        token = request.headers.get("X-Amz-Security-Token")
        with mock.patch("botocore.auth.get_current_datetime", lambda *_, **__: moment):
            SigV4Auth(credentials(token=token), self.service, REGION).add_auth(same)
        return bool(request.headers["Authorization"] == same.headers["Authorization"])

    async def _fail(self, request: web.Request) -> None:
        assert request.transport is not None
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "cut":
            request.transport.write(b"HTTP/1.1 200 O")
        if self.fault == "cut_body":
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        if self.fault == "garbage":
            request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n\r\n")
        request.transport.close()
        raise web.HTTPInternalServerError
