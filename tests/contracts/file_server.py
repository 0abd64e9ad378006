"""A host of files on loopback, one that counts who comes, and files without any host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestServer

from models.deliveries import Delivery
from models.errors import Refused
from models.requests import Attachment, Options
from streams.attachments import AttachmentRefused, Attachments
from streams.domain.attachments import FIELD, Content, File, check_attachments, file_of
from tests.contracts.deliveries import email_options, settings

PDF = b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n" + bytes(range(256)) * 8


class FileServer:
    """Serves `files` by path; `status` and `fault` (`hang`, `drip`, `cut`, `huge`) hold for all."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"/a.pdf": PDF}
        self.redirects: dict[str, tuple[int, str]] = {}
        self.headers: dict[str, str] = {}
        self.status = 200
        self.fault = ""
        self.requests: list[web.Request] = []
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._server = TestServer(app, host="127.0.0.1")

    async def start(self) -> None:
        """Listens on a free port."""
        await self._server.start_server()
        self.host = f"127.0.0.1:{self._server.port}"
        self.url = f"http://{self.host}"

    async def stop(self) -> None:
        """Goes away."""
        await self._server.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        if request.path in self.redirects:
            status, target = self.redirects[request.path]
            return web.Response(status=status, headers={"Location": target})
        if self.fault:
            return await self._misbehave(request)
        if request.path not in self.files:
            return web.Response(status=404)
        return web.Response(status=self.status, body=self.files[request.path], headers=self.headers)

    async def _misbehave(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        if self.fault == "cut":
            assert request.transport is not None
            await response.write(b"%PDF-")
            request.transport.abort()
        while self.fault == "huge":
            await response.write(b"x" * 65_536)
        while self.fault == "drip":
            await response.write(b"x")
            await asyncio.sleep(0.1)
        await asyncio.sleep(3600)
        return response


class Canary:
    """Counts connections: there must be none."""

    def __init__(self) -> None:
        self.connections = 0
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listens on a free port."""
        self._server = await asyncio.start_server(self._count, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Stops listening."""
        if self._server is not None:
            self._server.close()

    def _count(self, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


class GivenFiles(Attachments):
    """Whatever the address, the file is the same: for tests of what is done with it."""

    def __init__(self, data: bytes = PDF) -> None:
        super().__init__(settings())
        self._given = Content(data)

    @asynccontextmanager
    async def of(self, delivery: Delivery) -> AsyncIterator[tuple[File, ...]]:
        """Checked like others."""
        email = delivery.options.email
        attachments = email.attachments if email is not None else ()
        try:
            check_attachments(attachments)
            files = [file_of(f"{FIELD}.{i}", one.filename, self._given) for i, one in enumerate(attachments)]
        except Refused as error:
            raise AttachmentRefused(error.field, error.reason) from None
        yield tuple(files)


def with_files(*files: tuple[str, str]) -> Options:
    """A request for files by (url, filename)."""
    return email_options(attachments=tuple(Attachment.model_construct(url=url, filename=name) for url, name in files))
