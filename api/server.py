"""The HTTP server: uvicorn with bounds of our own, and JSON for what never reaches the app."""

from __future__ import annotations

import socket
from typing import Any, Final

import httptools
from fastapi import FastAPI
from uvicorn import Config, Server
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from api.errors import KINDS, MEDIA_TYPE, Problem, encode
from models.errors import Refused
from models.settings import Settings

MAX_TARGET_BYTES: Final = 16 * 1024
MAX_HEADER_BYTES: Final = 64 * 1024
MAX_HEADERS: Final = 200
#: A body is at most 512 KiB; who goes on sending after the refusal is cut off here.
MAX_DRAINED_BYTES: Final = 32 * 1024 * 1024
#: From the first byte of a request, or the opening of the connection, to the end of the headers.
HEADER_SECONDS: Final = 10.0
KEEP_ALIVE_SECONDS: Final = 75
DRAIN_SECONDS: Final = 20
_REASON_PHRASES = {400: b"Bad Request", 414: b"URI Too Long", 431: b"Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """uvicorn's protocol with limits on target, headers and time, and problem documents for its own refusals."""

    _refusal = "malformed"
    _bytes = 0
    _patience: Any = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._patience = self.loop.call_later(HEADER_SECONDS, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        self._be_patient()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        self._bytes = 0
        if self._patience is None:
            self._patience = self.loop.call_later(HEADER_SECONDS, self._give_up)
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_TARGET_BYTES:
            self._refuse("uri_too_long")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._bytes += len(name) + len(value)
        if self._bytes > MAX_HEADER_BYTES or len(self.headers) >= MAX_HEADERS:
            self._refuse("headers_too_large")
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._be_patient()
        self._bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._bytes += len(body)
        if self._bytes > MAX_DRAINED_BYTES:
            self.transport.close()
            return
        super().on_body(body)

    def send_400_response(self, msg: str) -> None:
        """The one refusal of the protocol itself; `msg` is replaced by a document."""
        status, _ = KINDS[self._refusal]
        body = encode(Problem(self._refusal))
        head = (
            b"HTTP/1.1 %d %s\r\ncontent-type: %s\r\ncontent-length: %d\r\ncache-control: no-store\r\n"
            b"connection: close\r\n\r\n"
        ) % (status, _REASON_PHRASES[status], MEDIA_TYPE.encode(), len(body))
        self.transport.write(head + body)
        self.transport.close()

    def _refuse(self, kind: str) -> None:
        self._refusal = kind
        raise httptools.HttpParserError(kind)

    def _be_patient(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _give_up(self) -> None:
        self._patience = None
        if not self.transport.is_closing():
            self.transport.close()


def server(app: FastAPI, settings: Settings) -> Server:
    """A server for the app. Serve it with the socket of `listen`."""
    config = Config(
        app,
        http=BoundedProtocol,
        loop="uvloop",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        # Behind a gateway the caller's address and scheme are in headers, which only these may set.
        proxy_headers=True,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=DRAIN_SECONDS,
        backlog=2048,
    )
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """The listening socket.

    Raises:
        Refused: naming HOST or PORT.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(2048)
    except socket.gaierror:
        opened.close()
        raise Refused("HOST", f"{host} is no address of this machine") from None
    except PermissionError:
        opened.close()
        raise Refused("PORT", f"{port} needs privileges; choose one from 1024 on") from None
    except OSError:
        opened.close()
        raise Refused("PORT", f"{port} is taken, or HOST {host} is not an address of this machine") from None
    opened.setblocking(False)
    return opened
