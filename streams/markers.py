"""Markers: what Redis remembers of requests that were accepted while Postgres was away.

A request is accepted then with its record on Kafka and a marker here: by it `GET` finds the request until its lane has
written the row, and a repeat with another body is refused. Written is what Redis has acknowledged; how well it keeps
that is its operator's choice (AOF).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

import orjson
import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from models.circuit import Circuit
from models.enums import Priority
from models.errors import Unavailable
from streams.gathering import Gathering

log = structlog.get_logger()

T = TypeVar("T")

#: As long as ids are remembered and records are kept: until then a lane that lags may still write the row.
KEPT: Final = timedelta(days=7)
#: Longer than all steps of a request together may not take; see `api.middleware`.
_DEADLINE_SECONDS = 2.0
#: How old may be what a process knows about whether there are markers at all.
_FRESH_SECONDS = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Marker:
    """An accepted request, as far as a reader may see it."""

    id: UUID
    user_id: str
    client: str
    fingerprint: bytes
    category: str
    priority: Priority
    created_at: datetime
    metadata: dict[str, str] = field(default_factory=dict)
    send_at: datetime | None = None
    expires_at: datetime | None = None


class Markers:
    """The markers of all processes. Every call ends within two seconds, by Unavailable where Redis does not answer."""

    def __init__(self, redis: Redis, *, key_prefix: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._redis = redis
        self._prefix = f"{key_prefix}marker:"
        self._any_key = f"{key_prefix}markers"
        self._clock = clock
        self._circuit = Circuit(clock=clock)
        self._writes: Gathering[Marker, Marker] = Gathering(self._write)
        self._reads: Gathering[UUID, Marker | None] = Gathering(self._read)
        self._there_are_any = False
        self._asked_at = float("-inf")
        self._asking: asyncio.Task[None] | None = None

    async def keep(self, marker: Marker) -> Marker:
        """Writes the marker unless its id has one; returns the one that stands."""
        return await self._ask(lambda: self._writes.add(marker))

    async def find(self, notification_id: UUID) -> Marker | None:
        """The marker of an id; None when it has none."""
        return await self._ask(lambda: self._reads.add(notification_id))

    async def _write(self, markers: Sequence[Marker]) -> list[Marker]:
        """In one round trip for all that came while the last ones were written."""
        seconds = KEPT // timedelta(seconds=1)
        async with self._redis.pipeline(transaction=False) as pipeline:
            pipeline.set(self._any_key, b"1", ex=seconds)
            for marker in markers:
                pipeline.set(self._key(marker.id), _encode(marker), nx=True, ex=seconds)
            pipeline.mget([self._key(marker.id) for marker in markers])
            kept = (await pipeline.execute())[-1]
        self._there_are_any = True
        return [_decode(marker.id, value) for marker, value in zip(markers, kept, strict=True)]

    async def _read(self, ids: Sequence[UUID]) -> list[Marker | None]:
        found: list[Any] = await self._redis.mget([self._key(each) for each in ids])
        return [None if value is None else _decode(each, value) for each, value in zip(ids, found, strict=True)]

    async def of(self, ids: Sequence[UUID]) -> dict[UUID, Marker]:
        """The markers that these ids have. Costs nothing while there are none at all, and knows that a second late.

        Without Redis it knows none, and raises nothing: this is for the time that Postgres is there.
        """
        self._refresh()
        if not self._there_are_any:
            return {}

        try:
            found = await self._ask(lambda: self._read(ids))
        except Unavailable:
            return {}
        return {marker.id: marker for marker in found if marker is not None}

    def _refresh(self) -> None:
        if self._asking is None and self._clock() - self._asked_at > _FRESH_SECONDS:
            self._asking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        async def exists() -> bool:
            return bool(await self._redis.exists(self._any_key))

        try:
            self._there_are_any = await self._ask(exists)
        except Unavailable:
            pass  # what was known stands
        finally:
            self._asked_at = self._clock()
            self._asking = None

    def _key(self, notification_id: UUID) -> str:
        return f"{self._prefix}{notification_id}"

    async def _ask(self, work: Callable[[], Awaitable[T]]) -> T:
        if not self._circuit.lets_pass():
            raise Unavailable("redis", "did not answer a moment ago")
        began = self._circuit.now()
        try:
            async with asyncio.timeout(_DEADLINE_SECONDS):
                answer = await work()
        except (RedisError, OSError) as error:  # also a full or read-only one
            self._circuit.failed(began)
            log.warning("redis does not take or give a marker", error=type(error).__name__)
            raise Unavailable("redis", type(error).__name__) from error
        except asyncio.CancelledError:
            self._circuit.failed(began)
            raise
        self._circuit.worked()
        return answer


def _encode(marker: Marker) -> bytes:
    return orjson.dumps(
        {
            "user_id": marker.user_id,
            "client": marker.client,
            "fingerprint": marker.fingerprint.hex(),
            "category": marker.category,
            "priority": marker.priority,
            "status": "accepted",
            "created_at": marker.created_at,
            "metadata": marker.metadata,
            "send_at": marker.send_at,
            "expires_at": marker.expires_at,
        }
    )


def _decode(notification_id: UUID, value: bytes | str) -> Marker:
    found: dict[str, Any] = orjson.loads(value)
    return Marker(
        id=notification_id,
        user_id=found["user_id"],
        client=found["client"],
        fingerprint=bytes.fromhex(found["fingerprint"]),
        category=found["category"],
        priority=Priority(found["priority"]),
        created_at=datetime.fromisoformat(found["created_at"]),
        metadata=found["metadata"],
        send_at=_moment(found["send_at"]),
        expires_at=_moment(found["expires_at"]),
    )


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
