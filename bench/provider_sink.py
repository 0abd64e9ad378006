"""An HTTP server that stands in for the vendors: takes its time, keeps a ledger, and misbehaves on command.

`POST /v3/mail/send` is answered 202 after the latency; each call is counted under the `delivery_id` of its
`custom_args`. What SES, SNS, Twilio and FCM are asked is answered in their form (`vendor_answers`), and counted under
the vendor's name. `GET /ledger` tells what arrived and when, `GET /summary` only the sums, `GET /last` the last call,
for a client that wants to repeat it; `POST /behaviour` sets how the next calls are answered (see `Behaviour`),
`POST /reset` forgets everything. It shares its machine with the system under test, so it is a bare asyncio protocol:
16 µs CPU a call, 9,300 calls/s measured at 200 in flight.

What providers do in their bad hours, as bodies of `POST /behaviour`; each holds until the next one, `{}` ends it:

    {"share": 0.01, "latency_ms": 9000}                 one call of a hundred takes 9 s
    {"latency_ms": 20000}  {"fault": "hang"}            all calls hang 20 s, or for ever
    {"status": 429, "headers": {"Retry-After": "20"}}   too many requests
    {"status": 500}  {"status": 500, "to": "user-7@"}   broken for all, or for the recipients that hold this text
    {"status": 401}  {"status": 503}                    credentials refused, out of service
    {"fault": "reset"}  {"fault": "cut"}                hangs up instead of answering, or in the middle of it

    python -m bench.provider_sink --port 8090 --latency-ms 20
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import time
from dataclasses import asdict, dataclass, field, fields
from typing import Any, cast

import orjson

from bench.vendor_answers import TOKEN, VendorAnswer, answer_of

_REASONS = {200: "OK", 202: "Accepted", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found"}
_REASONS |= {413: "Payload Too Large", 429: "Too Many Requests", 500: "Internal Server Error"}
_REASONS |= {503: "Service Unavailable"}


@dataclass
class Behaviour:
    """How mail/send answers. `times` limits it to so many calls; `share` to that part of them, evenly spread; `to` to
    recipients whose address holds this text."""

    status: int = 202
    latency_ms: float = 20.0
    #: None, `reset` (hang up instead of an answer), `cut` (hang up in the middle of it), `hang` (never answer).
    fault: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: Any = None
    times: int | None = None
    share: float = 1.0
    to: str | None = None


@dataclass(slots=True)
class Entry:
    """What the sink knows of one delivery; times are Unix seconds, `order` counts from 1 in order of acceptance."""

    calls: int = 0
    #: When each call began: Unix seconds, and those of the machine's monotonic clock, which all its processes share.
    starts: list[tuple[float, float]] = field(default_factory=list)
    accepted: int = 0
    first_at: float = 0.0
    first_accepted_at: float | None = None
    order: int | None = None
    to: str | None = None


class Sink:
    """The state behind all connections."""

    def __init__(self, *, latency_ms: float) -> None:
        self.normal = Behaviour(latency_ms=latency_ms)
        self.behaviour = self.normal
        #: Head and body of the last call.
        self.last = (b"", b"")
        self.reset()

    def reset(self) -> None:
        """Forgets the ledger; the behaviour stays."""
        self.ledger: dict[str, Entry] = {}
        self.calls = 0
        self.accepted = 0
        self.accepted_deliveries = 0
        self.repeated_deliveries = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._share_debt = 0.0

    def behave(self, wanted: dict[str, Any]) -> None:
        """Sets the behaviour; what isn't given is as at the start.

        Raises:
            ValueError: for a word it doesn't know.
        """
        unknown = wanted.keys() - {known.name for known in fields(Behaviour)}
        if unknown or wanted.get("fault") not in (None, "reset", "cut", "hang"):
            raise ValueError("unknown behaviour")
        self.behaviour = Behaviour(**{"latency_ms": self.normal.latency_ms, **wanted})

    def next_behaviour(self, to: str | None = None) -> Behaviour:
        """For the call that came in now, to this recipient."""
        current = self.behaviour
        if current.to is not None and (to is None or current.to not in to):
            return self.normal
        self._share_debt += current.share
        if self._share_debt < 1.0:
            return self.normal
        self._share_debt -= 1.0
        if current.times is not None:
            current.times -= 1
            if current.times <= 0:
                self.behaviour = self.normal
        return current

    def called(self, body: bytes) -> Entry:
        """Enters one call into the ledger."""
        person = orjson.loads(body)["personalizations"][0]
        return self.noted(person.get("custom_args", {}).get("delivery_id", "unknown"), person["to"][0]["email"])

    def noted(self, name: str, to: str | None = None) -> Entry:
        """One call more under this name."""
        entry = self.ledger.get(name)
        if entry is None:
            entry = self.ledger[name] = Entry(first_at=time.time(), to=to)
        entry.calls += 1
        entry.starts.append((time.time(), time.monotonic()))
        self.calls += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        return entry

    def take(self, entry: Entry) -> None:
        """Counts a call as accepted."""
        entry.accepted += 1
        self.accepted += 1
        self.accepted_deliveries += entry.accepted == 1
        self.repeated_deliveries += entry.accepted == 2
        if entry.order is None:
            entry.order = self.accepted
            entry.first_accepted_at = time.time()

    def summary(self) -> dict[str, Any]:
        """Sums over the ledger."""
        return {
            "calls": self.calls,
            "accepted": self.accepted,
            "deliveries": len(self.ledger),
            "accepted_deliveries": self.accepted_deliveries,
            "repeated_deliveries": self.repeated_deliveries,
            "in_flight": self.in_flight,
            "most_in_flight": self.most_in_flight,
        }


class SinkProtocol(asyncio.Protocol):
    """One connection: just enough of HTTP/1.1 for clients that send a Content-Length."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._buffer = b""
        self._hanging = 0
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Answers that are still due go nowhere, and nobody waits any more for those that never come."""
        self._transport = None
        self._sink.in_flight -= self._hanging

    def data_received(self, data: bytes) -> None:
        """Answers each request that is complete."""
        self._buffer = self._buffer + data if self._buffer else data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end]
            size = end + 4 + _content_length(head)
            if len(self._buffer) < size:
                return
            body, self._buffer = self._buffer[end + 4 : size], self._buffer[size:]
            method, path, *_ = head.split(b" ", 2)
            self._route(method, path.partition(b"?")[0], head, body)

    def _route(self, method: bytes, path: bytes, head: bytes, body: bytes) -> None:
        sink = self._sink
        try:
            if path == b"/v3/mail/send" and method == b"POST":
                sink.last = (head, body)
                self._send(sink.called(body))
            elif path == b"/ledger":
                self._reply(200, {**sink.summary(), "ledger": sink.ledger})
            elif path == b"/summary":
                self._reply(200, sink.summary())
            elif path == b"/behaviour" and method == b"POST":
                sink.behave(orjson.loads(body or b"{}"))
                self._reply(200, asdict(sink.behaviour))
            elif path == b"/reset" and method == b"POST":
                sink.reset()
                self._reply(200, sink.summary())
            elif method == b"POST" and (answer := answer_of(path)) is not None:
                sink.last = (head, body)
                self._send(sink.noted(answer.vendor), answer)
            elif path == b"/last":
                self._reply(200, {"head": sink.last[0].decode("latin-1"), "body": sink.last[1].decode("latin-1")})
            elif path == b"/token":
                self._write(TOKEN.rendered(0))
            else:
                self._reply(404, {"errors": [{"message": "not found"}]})
        except (ValueError, LookupError, TypeError, AttributeError):
            self._reply(400, {"errors": [{"message": "bad request"}]})

    def _send(self, entry: Entry, yes: VendorAnswer | None = None) -> None:
        behaviour = self._sink.next_behaviour(entry.to)
        if behaviour.fault == "hang":
            self._hanging += 1
            return
        asyncio.get_running_loop().call_later(behaviour.latency_ms / 1000, self._answer, behaviour, entry, yes)

    def _answer(self, behaviour: Behaviour, entry: Entry, yes: VendorAnswer | None) -> None:
        self._sink.in_flight -= 1
        if 200 <= behaviour.status < 300:
            self._sink.take(entry)
        if self._transport is None:
            return
        if behaviour.fault == "cut":
            self._transport.write(b"HTTP/1.1 202 Accepted\r\nContent-Le")
        if behaviour.fault:
            self._transport.close()
        elif yes is not None and 200 <= behaviour.status < 300:
            self._transport.write(yes.rendered(self._sink.calls))
        elif behaviour.status == 202:
            self._transport.write(_ACCEPTED % self._sink.calls)
        else:
            self._reply(behaviour.status, behaviour.body or {"errors": []}, behaviour.headers)

    def _reply(self, status: int, value: Any, headers: dict[str, str] | None = None) -> None:
        body = orjson.dumps(value)
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Other')}", "Content-Type: application/json"]
        lines += [f"{name}: {text}" for name, text in (headers or {}).items()]
        lines.append(f"Content-Length: {len(body)}\r\n\r\n")
        self._write("\r\n".join(lines).encode("latin-1") + body)

    def _write(self, answer: bytes) -> None:
        if self._transport is not None:
            self._transport.write(answer)


_ACCEPTED = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nX-Message-Id: sink-%d\r\n\r\n"


def _content_length(head: bytes) -> int:
    start = head.lower().find(b"\r\ncontent-length:")
    if start < 0:
        return 0
    return int(head[start + 17 :].split(b"\r\n", 1)[0])


async def serve(*, port: int, latency_ms: float, host: str = "127.0.0.1") -> tuple[asyncio.Server, Sink]:
    """Starts the sink in this loop; port 0 takes a free one."""
    sink = Sink(latency_ms=latency_ms)
    server = await asyncio.get_running_loop().create_server(lambda: SinkProtocol(sink), host, port, backlog=1024)
    return server, sink


async def _run(port: int, latency_ms: float) -> None:
    server, _ = await serve(port=port, latency_ms=latency_ms)
    print(f"listening on {server.sockets[0].getsockname()[1]}", flush=True)
    stop = asyncio.Event()
    for signum in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(signum, stop.set)
    await stop.wait()
    server.close()


def main() -> None:
    """Runs until it is told to stop."""
    parser = argparse.ArgumentParser(description="A stand-in for the vendors' APIs.")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one; it is printed")
    parser.add_argument("--latency-ms", type=float, default=20.0)
    wanted = parser.parse_args()
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415  where there is none, asyncio's own loop does

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    asyncio.run(_run(wanted.port, wanted.latency_ms))


if __name__ == "__main__":
    main()
