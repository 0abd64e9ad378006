"""Reading dead letters by where they lie: each partition once, in order, as one stream."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from models.errors import Refused, Unavailable
from models.settings import Settings
from streams.header_names import tolerate_header_names
from streams.kafka import client_options
from streams.records import Incoming, headers_from
from streams.topics import CATALOGUE, DEAD_LETTERS

tolerate_header_names()

_ID = re.compile(r"^(\d{1,9})-(\d{1,18})$", re.ASCII)
_TIMEOUT_MS = 10_000
#: How long a partition may give nothing although it holds what is asked for.
_PATIENCE_SECONDS = 15.0
#: A gap of more letters is skipped by a seek, a smaller one read over.
_GAP = 1_000


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a dead letter lies in its topic."""

    partition: int
    offset: int

    @classmethod
    def of(cls, identifier: str) -> Place:
        """Raises Refused when the id isn't `<partition>-<offset>`."""
        match = _ID.match(identifier)
        if match is None or int(match[1]) >= 2**31:
            raise Refused("a dead letter's id", "is <partition>-<offset>, as `comms dlq list` shows it")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"


class LetterReader:
    """A consumer without group: it reads, and leaves no trace. For one caller at a time."""

    def __init__(self, settings: Settings, *, name: str = "comms-letters") -> None:
        self._topic = settings.kafka_topic_prefix + DEAD_LETTERS
        self._settings = settings
        self._name = name
        self._consumer: AIOKafkaConsumer | None = None
        self._at: TopicPartition | None = None

    async def _opened(self) -> AIOKafkaConsumer:
        """The consumer, connected with the first question."""
        if self._consumer is not None:
            return self._consumer
        consumer = AIOKafkaConsumer(
            client_id=self._name,
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            request_timeout_ms=_TIMEOUT_MS,
            max_partition_fetch_bytes=CATALOGUE[DEAD_LETTERS].max_bytes,
            **client_options(self._settings),
        )
        try:
            await consumer.start()
        except (KafkaError, OSError):
            await consumer.stop()
            raise
        self._consumer, self._at = consumer, None
        return consumer

    async def stop(self) -> None:
        """Disconnects."""
        consumer, self._consumer = self._consumer, None
        if consumer is not None:
            await consumer.stop()

    async def read(self, places: Sequence[Place]) -> AsyncGenerator[tuple[Place, Incoming | None], None]:
        """The letters at these places, in the order of the topic; None for what is past its retention or never was.

        Raises:
            Unavailable: when the broker doesn't give what it holds.
        """
        try:
            for partition, group in groupby(sorted(set(places)), key=lambda place: place.partition):
                async for found in self._of_partition(partition, [place.offset for place in group]):
                    yield found
        except (KafkaError, OSError) as error:
            raise Unavailable("kafka", f"does not answer ({type(error).__name__})") from error

    async def one(self, place: Place) -> Incoming | None:
        """The letter at this place. Raises Unavailable."""
        async for _, letter in self.read([place]):
            return letter
        return None

    async def held(self, partition: int) -> tuple[int, int]:
        """The first offset that a partition holds, and the one behind its last.

        Raises:
            Refused: when there is no such partition.
            Unavailable: when the broker doesn't answer.
        """
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                return await self._held(partition)
        except (KafkaError, OSError) as error:
            raise Unavailable("kafka", f"does not answer ({type(error).__name__})") from error

    async def _held(self, partition: int) -> tuple[int, int]:
        consumer, where = await self._opened(), TopicPartition(self._topic, partition)
        if partition not in await self._partitions(consumer):
            raise Refused("id", f"the topic {self._topic} has no partition {partition}")
        first = await consumer.beginning_offsets([where])
        end = await consumer.end_offsets([where])
        return first[where], end[where]

    async def _partitions(self, consumer: AIOKafkaConsumer) -> set[int]:
        known = consumer.partitions_for_topic(self._topic)
        if known is None:
            metadata = await consumer._client.fetch_all_metadata()
            known = metadata.partitions_for_topic(self._topic)
        return known or set()

    async def _of_partition(
        self, partition: int, offsets: Sequence[int]
    ) -> AsyncIterator[tuple[Place, Incoming | None]]:
        try:
            first, end = await self.held(partition)
        except Refused:  # It never was there.
            first, end = 0, 0
        letters = self._stream(partition, [offset for offset in offsets if first <= offset < end])
        letter = await anext(letters, None)
        for offset in offsets:
            if letter is not None and letter.offset == offset:
                yield Place(partition, offset), letter
                letter = await anext(letters, None)
            else:
                yield Place(partition, offset), None

    async def _stream(self, partition: int, wanted: Sequence[int]) -> AsyncIterator[Incoming]:
        consumer, where, next_one = await self._opened(), TopicPartition(self._topic, partition), 0
        if wanted and self._at != where:
            consumer.assign([where])
            self._at = where
            consumer.seek(where, wanted[0])
        while next_one < len(wanted):
            if not 0 <= wanted[next_one] - await consumer.position(where) <= _GAP:
                consumer.seek(where, wanted[next_one])
            for record in await self._more(consumer, where):
                while next_one < len(wanted) and wanted[next_one] < record.offset:
                    next_one += 1  # That offset holds no record.
                if next_one < len(wanted) and wanted[next_one] == record.offset:
                    next_one += 1
                    yield _incoming(record)

    async def _more(self, consumer: AIOKafkaConsumer, where: TopicPartition) -> list[Any]:
        async with asyncio.timeout(_PATIENCE_SECONDS):
            while True:
                # No more at once than what one step works on: what was fetched stays with the consumer.
                batch = await consumer.getmany(where, timeout_ms=500, max_records=100)
                if batch:
                    return list(batch[where])


@asynccontextmanager
async def letter_reader(settings: Settings, *, name: str = "comms-letters") -> AsyncIterator[LetterReader]:
    """A reader for a few questions. Connects with the first."""
    reader = LetterReader(settings, name=name)
    try:
        yield reader
    finally:
        await reader.stop()


def _incoming(record: Any) -> Incoming:
    return Incoming(
        DEAD_LETTERS,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        headers_from(record.headers),
    )
