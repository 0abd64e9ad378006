"""Kafka records as the lanes see them: bytes in, bytes out. Tuples, as a notification takes seven of them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

Headers = tuple[tuple[str, bytes | None], ...]

CONTENT_TYPE = ("content-type", b"application/json")
#: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
#: https://kafka.apache.org/documentation/#recordbatch: the batch's header, and the lengths and deltas of one record.
_BATCH_BYTES = 61 + 40


class Incoming(NamedTuple):
    """A record as it was read. `topic` carries no prefix."""

    topic: str
    partition: int
    offset: int
    #: Milliseconds since 1970, as the producer or broker stamped it.
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers = ()

    def header(self, name: str) -> str | None:
        """The first header of that name as text; None where it is absent or no UTF-8."""
        for key, value in self.headers:
            if key == name and value is not None:
                try:
                    return value.decode()
                except UnicodeDecodeError:
                    return None
        return None

    @property
    def stamped(self) -> datetime:
        """`timestamp_ms` as a time. A client may stamp what it likes: what no calendar has counts as 1970."""
        try:
            return datetime.fromtimestamp(self.timestamp_ms / 1000, UTC)
        except (ValueError, OverflowError, OSError):
            return datetime.fromtimestamp(0, UTC)

    @property
    def size_bytes(self) -> int:
        """What it takes in a batch of its own, at most."""
        headers = sum(len(name) * 4 + len(value or b"") + 10 for name, value in self.headers)
        return len(self.key or b"") + len(self.value or b"") + headers + _BATCH_BYTES

    def carried(self) -> Headers:
        """The headers that records caused by this one bring along: a trace context, where it is one."""
        for name, value in self.headers:
            if name == "traceparent" and value is not None and _TRACEPARENT.fullmatch(value):
                return ((name, value),)
        return ()


class Outgoing(NamedTuple):
    """A record to be written. `topic` carries no prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = (CONTENT_TYPE,)


def headers_from(pairs: Iterable[tuple[str, bytes | None]] | None) -> Headers:
    """Headers in the form that the lanes keep."""
    return tuple(pairs or ())


def from_message(topic: str, message: Any) -> Incoming:
    """A Faust message as the lanes see it; `topic` without prefix."""
    return Incoming(
        topic=topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=int(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=headers_from(message.headers),
    )
