"""The one idempotent producer of a process."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine, Sequence
from typing import Any

import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, MessageSizeTooLargeError

from models.errors import Unavailable
from models.settings import Settings
from streams.clock import now
from streams.kafka import client_options
from streams.kafka_patience import mend_clients
from streams.partitions import partition_of
from streams.records import Outgoing
from streams.topics import CATALOGUE, DEAD_LETTERS, INTERNAL_BYTES
from streams.turns import in_turns

log = structlog.get_logger()

mend_clients()

_RECONNECT_SECONDS = 1.0
_STOP_SECONDS = 5.0
#: aiokafka asserts that a record has a key or a value, but a foreign record may have neither, and its dead letter then
#: has neither too. This stands for "no key" until the serializer.
_NO_KEY = object()
#: How long one call may write. aiokafka waits for metadata, for room and for acks, each for its request timeout: with a
#: broker that hangs, longer than the watchdog does.
_WRITE_SECONDS = 20.0
#: What key, value and headers may have beside them in a batch of their own.
_OVERHEAD_BYTES = 1024
#: A dead letter may be larger than all topics of ours: it came compressed, and goes compressed.
_LARGEST_LETTER_BYTES = 256 * 1024 * 1024


class Publisher:
    """Writes records and says when they are safe (acks=all).

    Connects in the background, so that a process can start before its broker does, and anew after every failure:
    aiokafka counts a batch that failed for good as sent, after which the broker refuses all later ones of that
    partition as out of order.
    """

    def __init__(self, settings: Settings, *, name: str, linger_ms: int = 5) -> None:
        self._settings = settings
        self._name = name
        self._linger_ms = linger_ms
        self._producer: AIOKafkaProducer | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._retired: set[asyncio.Task[None]] = set()

    @property
    def is_connected(self) -> bool:
        """Whether there is a producer that has reached its cluster."""
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
            await _stop(producer)
        if self._retired:
            await asyncio.wait(self._retired)

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        """Writes all records and waits until every one is acknowledged by all in-sync replicas.

        Dead letters of any size are written; one that even compressed doesn't fit goes without its value.

        Returns:
            (partition, offset) of each, in order.

        Raises:
            TooLarge: when a record doesn't fit its topic; none was written.
            Unavailable: when some were not acknowledged; all may then be sent again.
        """
        small = [record for record in records if not _is_large_letter(record)]
        for record in small:
            check_size(record)
        written = await self._write(small)
        if len(small) == len(records):
            return written
        places = iter(written)
        return [await self._write_large(record) if _is_large_letter(record) else next(places) for record in records]

    async def _write(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        producer = self._producer
        if producer is None:
            raise Unavailable("kafka", "not connected yet")
        futures: list[asyncio.Future[Any]] = []
        stamped = _now_ms()
        try:
            async with asyncio.timeout(_WRITE_SECONDS):
                partitions = {
                    topic: await self._partitions(producer, topic) for topic in {each.topic for each in records}
                }
                async for record in in_turns(records):
                    partition = None if record.key is None else partition_of(record.key, partitions[record.topic])
                    # One by one: those that were begun are kept when the next one raises.
                    futures.append(await self._begin(producer, record, stamped, partition))
                # One after the other: they end together, and a gather costs a callback each.
                written = [await future for future in futures]
        except (KafkaError, TimeoutError) as error:
            _forget(futures)
            self._replace(producer)
            raise Unavailable("kafka", type(error).__name__) from error
        except asyncio.CancelledError:  # its caller waits no longer; the records may still arrive
            _forget(futures)
            raise
        return [(meta.partition, meta.offset) for meta in written]

    async def _partitions(self, producer: AIOKafkaProducer, topic: str) -> list[int]:
        return sorted(await producer.partitions_for(self._settings.kafka_topic_prefix + topic))

    def _begin(
        self, producer: AIOKafkaProducer, record: Outgoing, stamped_ms: int, partition: int | None = None
    ) -> Coroutine[Any, Any, asyncio.Future[Any]]:
        """Without a partition the producer chooses: by the key, or any."""
        begun: Coroutine[Any, Any, asyncio.Future[Any]] = producer.send(
            self._settings.kafka_topic_prefix + record.topic,
            record.value,
            key=_NO_KEY if record.key is None else record.key,
            partition=partition,
            timestamp_ms=stamped_ms,
            headers=list(record.headers),
        )
        return begun

    async def _write_large(self, record: Outgoing) -> tuple[int, int]:
        producer = self._new_producer(max_request_size=_LARGEST_LETTER_BYTES, compression_type="gzip")
        try:
            await producer.start()
            try:
                meta = await (await self._begin(producer, record, _now_ms()))
            except MessageSizeTooLargeError:
                size = str(len(record.value or b"")).encode()
                stub = Outgoing(record.topic, record.key, None, (*_short(record), ("truncated", size)))
                meta = await (await self._begin(producer, stub, _now_ms()))
        except (KafkaError, OSError) as error:
            raise Unavailable("kafka", type(error).__name__) from error
        finally:
            await _stop(producer)
        return meta.partition, meta.offset

    def _replace(self, producer: AIOKafkaProducer) -> None:
        """Connects anew and lets the old one go in the background, once however many callers saw it fail."""
        if self._producer is not producer:
            return
        self._producer = None
        self._connecting = asyncio.create_task(self._connect())
        retiring = asyncio.create_task(_stop(producer))
        self._retired.add(retiring)
        retiring.add_done_callback(self._retired.discard)

    async def _connect(self) -> None:
        while True:
            producer = self._new_producer(max_request_size=INTERNAL_BYTES)
            try:
                await producer.start()
            except (KafkaError, OSError) as error:
                await producer.stop()
                log.warning("kafka unreachable, trying again", error=type(error).__name__)
                await asyncio.sleep(_RECONNECT_SECONDS)
            else:
                self._producer = producer
                return

    def _new_producer(self, **options: Any) -> AIOKafkaProducer:
        return AIOKafkaProducer(
            client_id=self._name,
            acks="all",
            enable_idempotence=True,
            linger_ms=self._linger_ms,
            max_batch_size=64 * 1024,
            key_serializer=_serialized,
            **options,
            **client_options(self._settings),
        )


def _now_ms() -> int:
    """By the trusted clock: a broker refuses what comes from one that is an hour ahead, for as long as that is."""
    return int(now().timestamp() * 1000)


class TooLarge(Exception):
    """A record that doesn't fit its topic. `topic` and `size_bytes` tell which and how much too large."""

    def __init__(self, topic: str, size_bytes: int) -> None:
        super().__init__(f"{size_bytes} bytes are too many for {topic}")
        self.topic = topic
        self.size_bytes = size_bytes


def check_size(record: Outgoing) -> None:
    """Refuses what the broker would refuse, before it can leave a gap in the producer's sequence.

    Raises:
        TooLarge: naming the topic.
    """
    size = _size(record)
    if size > CATALOGUE[record.topic].max_bytes:
        raise TooLarge(record.topic, size)


def _is_large_letter(record: Outgoing) -> bool:
    return record.topic == DEAD_LETTERS and _size(record) > CATALOGUE[DEAD_LETTERS].max_bytes


def _size(record: Outgoing) -> int:
    size = len(record.key or b"") + len(record.value or b"") + _OVERHEAD_BYTES
    for name, value in record.headers:
        size += len(name) * 4 + len(value or b"") + 16
    return size


def _short(record: Outgoing) -> tuple[tuple[str, bytes | None], ...]:
    """The headers that fit beside no value: ours come last and are short."""
    return tuple(pair for pair in record.headers if len(pair[1] or b"") <= _OVERHEAD_BYTES)[-50:]


def _serialized(key: object) -> object:
    return None if key is _NO_KEY else key


def _forget(futures: Sequence[asyncio.Future[Any]]) -> None:
    for future in futures:
        future.add_done_callback(_seen)


def _seen(future: asyncio.Future[Any]) -> None:
    """Its failure was told by another one of the batch, or there is nobody to tell."""
    if not future.cancelled():
        future.exception()


async def _stop(producer: AIOKafkaProducer) -> None:
    with contextlib.suppress(asyncio.TimeoutError, KafkaError):
        await asyncio.wait_for(producer.stop(), timeout=_STOP_SECONDS)
