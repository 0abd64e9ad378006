"""What the broker knows of the queues: ends, commits, readers, and how long the heads have waited.

All of it is asked of the broker, so it is also right for lanes that no process runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, GroupIdNotFound, KafkaError, NoError, for_code

from models.settings import Settings
from streams.kafka import client_options
from streams.lanes import consumer_group
from streams.queues import QUEUES, Queue
from streams.records import Incoming

log = structlog.get_logger()

#: Of each partition that is behind, one batch is read, and no more of all together: a sample stays cheap.
_HEAD_BYTES = 128 * 1024
_HEADS_BYTES = 4 * 1024 * 1024
_HEADS_SECONDS = 2.0
#: Partitions come rarely, and asking for them means asking for all topics of the cluster.
_PARTITIONS_SECONDS = 60.0
_REQUEST_MS = 5_000
_CLOSE_SECONDS = 2.0
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One queue at this moment."""

    lag: int
    #: None where nobody counts.
    in_total: int | None
    #: None where nobody takes anything out.
    out_total: int | None
    #: When the record at its head was written; None for an empty queue, or where that could not be read in time.
    oldest_at: datetime | None
    members: int | None


@dataclass(frozen=True, slots=True)
class _Span:
    """What is in a partition: the first offset that is kept, the first that is not done, and the next to come."""

    first: int
    done: int
    end: int

    @property
    def lag(self) -> int:
        return max(0, self.end - self.done)


class QueueReader:
    """Asks the broker. Connects when it is first asked; anything odd closes it, and the next question starts anew."""

    def __init__(self, settings: Settings, *, client_id: str = "comms-queues") -> None:
        self._settings = settings
        self._client_id = client_id
        self._admin: AIOKafkaAdminClient | None = None
        self._consumer: AIOKafkaConsumer | None = None
        self._coordinators: dict[str, int] = {}
        self._partitions: dict[str, list[TopicPartition]] = {}
        self._partitions_at = float("-inf")

    async def read(self, *, within_seconds: float = 5.0) -> dict[str, Reading]:
        """All queues that are topics, by name; those without a topic yet are absent.

        Raises:
            KafkaError, OSError, TimeoutError: when the broker does not answer as it should, or not in time.
        """
        try:
            async with asyncio.timeout(within_seconds):
                return await self._read()
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Lets go of the connections."""
        admin, consumer = self._admin, self._consumer
        self._admin = self._consumer = None
        self._coordinators.clear()
        self._partitions_at = float("-inf")
        for client, closing in ((admin, admin and admin.close), (consumer, consumer and consumer.stop)):
            if client is not None and closing is not None:
                try:
                    async with asyncio.timeout(_CLOSE_SECONDS):
                        await closing()
                except (KafkaError, OSError, TimeoutError) as error:
                    log.debug("queue reader: a connection did not close", error=type(error).__name__)

    async def _read(self) -> dict[str, Reading]:
        admin, consumer = await self._connected()
        places = await self._places(admin)
        every = {place for own in places.values() for place in own}
        if every != consumer.assignment():
            # All at once: the client would ask for the metadata of unknown topics one by one, a tenth of a second each.
            consumer.assign(every)
            consumer.pause(*every)
        groups = {name: consumer_group(self._settings, name) for name in places if QUEUES[name].is_read}
        # Commits before ends: a lane that moves in between must not be ahead of its own end.
        committed = {name: await self._committed(admin, group, places[name]) for name, group in groups.items()}
        members = {name: await self._members(admin, group) for name, group in groups.items()}
        first, end = await asyncio.gather(consumer.beginning_offsets(every), consumer.end_offsets(every))
        spans = {
            name: {place: _span(first[place], committed.get(name, {}).get(place, -1), end[place]) for place in own}
            for name, own in places.items()
        }
        heads = await _heads(consumer, spans.values())
        return {name: _reading(QUEUES[name], own, heads, members.get(name)) for name, own in spans.items()}

    async def _connected(self) -> tuple[AIOKafkaAdminClient, AIOKafkaConsumer]:
        if self._admin is None or self._consumer is None:
            options = client_options(self._settings)
            self._admin = AIOKafkaAdminClient(client_id=self._client_id, request_timeout_ms=_REQUEST_MS, **options)
            self._consumer = AIOKafkaConsumer(
                client_id=self._client_id,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
                request_timeout_ms=_REQUEST_MS,
                max_partition_fetch_bytes=_HEAD_BYTES,
                fetch_max_bytes=_HEADS_BYTES,
                **options,
            )
            await self._admin.start()
            await self._consumer.start()
        return self._admin, self._consumer

    async def _places(self, admin: AIOKafkaAdminClient) -> dict[str, list[TopicPartition]]:
        """The partitions of each queue. All topics are asked for: to ask for one by name could create it."""
        if time.monotonic() - self._partitions_at > _PARTITIONS_SECONDS:
            there = {topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()}
            named = {
                queue.name: self._settings.kafka_topic_prefix + queue.topic
                for queue in QUEUES.values()
                if queue.topic is not None
            }
            self._partitions = {
                name: [TopicPartition(topic, partition["partition"]) for partition in there[topic]]
                for name, topic in named.items()
                if there.get(topic)
            }
            self._partitions_at = time.monotonic() if len(self._partitions) == len(named) else float("-inf")
        return self._partitions

    async def _committed(
        self, admin: AIOKafkaAdminClient, group: str, places: Sequence[TopicPartition]
    ) -> dict[TopicPartition, int]:
        """The group's offsets; -1 where it has committed nothing."""
        while True:
            coordinator = await self._coordinator(admin, group)
            found = await admin.list_consumer_group_offsets(group, coordinator, list(places))
            if len(found) == len(places):
                return {place: committed.offset for place, committed in found.items()}
            # An error as a whole, as of a coordinator that moved or still loads, comes as an answer without partitions.
            await self._pause(group)

    async def _members(self, admin: AIOKafkaAdminClient, group: str) -> int:
        """One group a request: the client reads the answer about several wrongly (it takes a v3 answer for a v2)."""
        while True:
            coordinator = await self._coordinator(admin, group)
            [response] = await admin.describe_consumer_groups([group], coordinator)
            [described] = response.to_object()["groups"]
            if described["error_code"] in (NoError.errno, GroupIdNotFound.errno):
                return len(described["members"])
            error = for_code(described["error_code"])
            if not error.retriable:
                raise error(group)
            await self._pause(group)

    async def _pause(self, group: str) -> None:
        """Before the same question is asked again, of a coordinator that is looked for again."""
        self._coordinators.pop(group, None)
        await asyncio.sleep(_PAUSE_SECONDS)

    async def _coordinator(self, admin: AIOKafkaAdminClient, group: str) -> int:
        while group not in self._coordinators:
            try:
                self._coordinators[group] = await admin.find_coordinator(group)
            except GroupCoordinatorNotAvailableError:  # The first question makes the broker set up its groups.
                await self._pause(group)
        return self._coordinators[group]


def _span(first: int, committed: int, end: int) -> _Span:
    """Who has committed nothing starts at the first record that is kept; retention may have passed a commit."""
    return _Span(first, max(first, committed), end)


def _reading(
    queue: Queue, spans: Mapping[TopicPartition, _Span], heads: Mapping[TopicPartition, datetime], members: int | None
) -> Reading:
    return Reading(
        lag=sum(span.lag for span in spans.values()),
        in_total=sum(span.end for span in spans.values()),
        out_total=sum(span.done for span in spans.values()) if queue.is_read else None,
        oldest_at=min((heads[place] for place in spans if place in heads), default=None),
        members=members,
    )


async def _heads(
    consumer: AIOKafkaConsumer, queues: Iterable[Mapping[TopicPartition, _Span]]
) -> dict[TopicPartition, datetime]:
    """When the first record that is not done was written, by partition; what can't be read in time is absent."""
    wanted = {place: span.done for spans in queues for place, span in spans.items() if span.lag}
    for place, offset in wanted.items():
        consumer.seek(place, offset)
    consumer.resume(*wanted)
    found: dict[TopicPartition, datetime] = {}
    ends = time.monotonic() + _HEADS_SECONDS
    for place in wanted:
        left_ms = max(0, int((ends - time.monotonic()) * 1000))
        records = (await consumer.getmany(place, timeout_ms=left_ms, max_records=1)).get(place, ())
        consumer.pause(place)
        for record in records:
            found[place] = Incoming("", 0, 0, record.timestamp, None, None).stamped
    return found
