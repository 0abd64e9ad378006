"""A client that is not the bottleneck: POSTs notifications over kept connections, one request at a time on each.

A bare asyncio protocol in a process of its own. Every request has an Idempotency-Key and a user of its own. When the
time is over it prints one JSON line: how many were answered with what, how fast, and what it used itself.

    python -m bench.http_load --port 8002 --token … --connections 64 --seconds 10
"""

from __future__ import annotations

import argparse
import asyncio
import time
import uuid
from collections import Counter
from typing import Any, cast

import orjson
import uvloop

from bench.load import email_request, percentile

#: Stand for the numbers of key, user and order; the same width as what replaces them, so the length is known before.
_MARK = "0000000"
_USERS = 50_000


def _template(*, port: int, token: str) -> bytes:
    """A whole request as a `%` format of (run, number, user, user, number)."""
    body = email_request(0)
    del body["id"]
    body |= {"user_id": f"user-{_MARK}", "recipient": {"email": f"user-{_MARK}@example.com"}}
    body["data"] = {**body["data"], "order": {"id": _MARK, "lines": ["Tea", "Cups"], "gift": True}}
    raw = orjson.dumps(body)
    head = (
        "POST /api/v1/notifications HTTP/1.1\r\n"
        f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\n"
    ).encode()
    escaped = (head.replace(b"%", b"%%"), raw.replace(b"%", b"%%").replace(_MARK.encode(), b"%07d"))
    return escaped[0] + b"Idempotency-Key: %s-%07d\r\n\r\n" + escaped[1]


class Load:
    """What all connections share: the next number, and the answers so far."""

    def __init__(self, template: bytes) -> None:
        self._template = template
        self._run = uuid.uuid4().hex[:12].encode()
        self._number = 0
        self.stopping = False
        self.statuses: Counter[str] = Counter()
        self.seconds: list[float] = []

    def next_request(self) -> bytes:
        """One that nobody has sent before."""
        self._number += 1
        user = self._number % _USERS
        return self._template % (self._run, self._number, user, user, self._number)


class Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last one is complete."""

    def __init__(self, load: Load) -> None:
        self._load = load
        self._buffer = b""
        self._began = 0.0
        self._transport: asyncio.Transport | None = None
        self.over = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begins."""
        self._transport = cast(asyncio.Transport, transport)
        self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        """An answer that was still due counts as none."""
        if not self.over.done():
            self._load.statuses["none"] += 1
            self.over.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Goes on when the answer is complete."""
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = self._buffer[:end].lower()
        start = head.find(b"content-length:") + len(b"content-length:")
        if len(self._buffer) < end + 4 + int(head[start:].split(b"\r\n", 1)[0]):
            return
        self._load.statuses[self._buffer[9:12].decode()] += 1
        self._load.seconds.append(time.perf_counter() - self._began)
        self._buffer = b""
        self._send()

    def _send(self) -> None:
        assert self._transport is not None
        if self._load.stopping:
            self.over.set_result(None)
            self._transport.close()
            return
        self._began = time.perf_counter()
        self._transport.write(self._load.next_request())


async def post(*, port: int, token: str, connections: int, seconds: float) -> dict[str, Any]:
    """Posts for so long; returns the figures."""
    load = Load(_template(port=port, token=token))
    loop = asyncio.get_running_loop()
    started, used = time.perf_counter(), time.process_time()
    made = [await loop.create_connection(lambda: Connection(load), "127.0.0.1", port) for _ in range(connections)]
    await asyncio.sleep(seconds)
    load.stopping = True
    await asyncio.wait([protocol.over for _, protocol in made], timeout=30)
    took = time.perf_counter() - started
    answers = len(load.seconds)
    return {
        "per_second": round(answers / took, 1),
        "answers": answers,
        "statuses": dict(load.statuses),
        "p50_ms": round(percentile(load.seconds, 0.5) * 1000, 1),
        "p99_ms": round(percentile(load.seconds, 0.99) * 1000, 1),
        "client_cpu_us_each": round((time.process_time() - used) / answers * 1e6),
    }


def main() -> None:
    """One run, one line."""
    parser = argparse.ArgumentParser(description="Posts notifications as fast as they are answered.")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--token", default="none")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=10.0)
    print(orjson.dumps(uvloop.run(post(**vars(parser.parse_args())))).decode())


if __name__ == "__main__":
    main()
