"""Kafka records as the lanes see them: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime

Headers = tuple[tuple[str, bytes | None], ...]

CONTENT_TYPE = ("content-type", b"application/json")
#: Headers that travel on with whatever a record causes.
_CARRIED = ("traceparent",)


@dataclass(frozen=True, slots=True)
class Incoming:
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

    def carried(self) -> Headers:
        """The headers that records caused by this one bring along."""
        return tuple(pair for pair in self.headers if pair[0] in _CARRIED)


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A record to be written. `topic` carries no prefix."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Headers = (CONTENT_TYPE,)


def headers_from(pairs: Iterable[tuple[str, bytes | None]] | None) -> Headers:
    """Headers in the form that the lanes keep."""
    return tuple(pairs or ())
