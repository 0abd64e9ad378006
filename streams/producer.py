"""The one idempotent producer of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError

from models.errors import Unavailable
from models.settings import Settings
from streams.kafka import client_options
from streams.records import Outgoing
from streams.topics import INTERNAL_BYTES
from streams.turns import in_turns

log = structlog.get_logger()

_RECONNECT_SECONDS = 1.0
#: aiokafka asserts that a record has a key or a value, but a foreign record may have neither, and its dead letter then
#: has neither too. This stands for "no key" until the serializer.
_NO_KEY = object()


class Publisher:
    """Writes records and says when they are safe (acks=all).

    Connects in the background and again whenever needed, so that a process can start before its broker does.
    """

    def __init__(self, settings: Settings, *, name: str, linger_ms: int = 5) -> None:
        self._settings = settings
        self._name = name
        self._linger_ms = linger_ms
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether the producer has reached its cluster at least once."""
        return self._producer is not None

    async def start(self) -> None:
        """Begins to connect; returns at once."""
        self._connecting = asyncio.create_task(self._connect())

    async def connected(self) -> None:
        """Waits until the cluster was reached."""
        assert self._connecting is not None, "start() comes first"
        await asyncio.shield(self._connecting)

    async def stop(self) -> None:
        """Flushes what is buffered, and disconnects."""
        if self._connecting is not None:
            self._connecting.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._connecting
        if self._producer is not None:
            producer, self._producer = self._producer, None
            with contextlib.suppress(asyncio.TimeoutError, KafkaError):
                await asyncio.wait_for(producer.stop(), timeout=5)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Writes all records and waits until every one is acknowledged by all in-sync replicas.

        Returns:
            (partition, offset) of each, in order.

        Raises:
            Unavailable: when some were not acknowledged; all may then be sent again.
        """
        if self._producer is None:
            raise Unavailable("kafka", "not connected yet")
        prefix = self._settings.kafka_topic_prefix
        try:
            futures = [
                await self._producer.send(
                    prefix + record.topic,
                    record.value,
                    key=_NO_KEY if record.key is None else record.key,
                    headers=list(record.headers),
                )
                async for record in in_turns(records, size=64)
            ]
            written = await asyncio.gather(*futures)
        except KafkaError as error:
            raise Unavailable("kafka", type(error).__name__) from error
        return [(meta.partition, meta.offset) for meta in written]

    async def _connect(self) -> None:
        while True:
            producer = AIOKafkaProducer(
                client_id=self._name,
                acks="all",
                enable_idempotence=True,
                linger_ms=self._linger_ms,
                max_request_size=INTERNAL_BYTES,
                max_batch_size=64 * 1024,
                key_serializer=_serialized,
                **client_options(self._settings),
            )
            try:
                await producer.start()
            except (KafkaError, OSError) as error:
                await producer.stop()
                log.warning("kafka unreachable, trying again", error=type(error).__name__)
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                self._producer = producer
                return


def _serialized(key: object) -> object:
    return None if key is _NO_KEY else key
