"""A lane: one Faust app with one input topic, one consumer group and one agent.

Measured rules that keep it from losing messages: raw bytes, no acks by Faust, acks in order after all that a record
caused is durable, and a crash of the agent ends the process. An agent that raises inside `take()` or `async for` with
acks loses what it held; here it never does (docs/decisions/0002-lanes.md).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import faust
from faust.auth import SASLCredentials, SSLCredentials
from faust.types import TP

from models.settings import Settings
from streams.faust_pace import Handed, HandsOverAtOnce, Patience, Raw, Unused, Unwatched
from streams.faust_reading import ReadsOn
from streams.header_names import tolerate_header_names
from streams.kafka import ssl_context
from streams.short_fetches import fetch_shortly

tolerate_header_names()
fetch_shortly()

_RAW = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}
#: How soon a lane reads on whose partitions were all full.
_PAUSED_SECONDS = 0.02
#: How long a fetch may wait where some were: it would not see that there is room for them again.
_PARTLY_PAUSED_SECONDS = 0.05


class Work(Protocol):
    """What a lane does with its records. One for each app."""

    def start(self, app: LaneApp) -> None:
        """Begins what runs beside the feeding, as futures of the app: an exception in one crashes the app."""

    def feed(self, event: Any) -> bool:
        """Takes a record in; whether there is room for more."""

    async def room(self) -> None:
        """Waits until there is."""

    async def quiesce(self, app: LaneApp) -> None:
        """Before partitions are taken away, or the end: finishes what it can and commits what is done."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one lane reads and who works on it."""

    name: str
    #: Topic without prefix.
    topic: str
    #: Makes the lane's work; an app that is built again begins afresh.
    work: Callable[[], Work]
    #: Records that Faust may have fetched ahead, for each partition.
    ahead_records: int
    #: How long a busy lane waits before it reads on, so that a fetch brings more.
    patience_seconds: float = 0.0


class _Consumer(HandsOverAtOnce, ReadsOn):
    """Faust sleeps a second where all partitions are full; a lane that fills them often would stand still."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._patience = Patience(self.app.patience_seconds)
        self._rest_seconds = 0.0

    async def _wait_next_records(self, timeout: float) -> Any:
        if self.flow_active and self._buffered_partitions and not self._get_active_partitions():
            await self.sleep(_PAUSED_SECONDS)
            return {}, self._get_active_partitions()
        if self._rest_seconds:
            await asyncio.sleep(self._rest_seconds)
        patience = _PARTLY_PAUSED_SECONDS if self._buffered_partitions else timeout
        records, active_partitions = await super()._wait_next_records(patience)
        self._rest_seconds = self._patience.after(sum(map(len, records.values())) if records else 0)
        return records, active_partitions

    def highwater(self, tp: TP) -> int:
        """Asked for each record, and only the monitor would hear of it."""
        return 0


class LaneApp(faust.App):  # type: ignore[misc]
    """A Faust app whose work decides what to wait for before partitions go.

    `_consumer_wait_empty` and `_new_transport` are Faust's own (pinned; `tests/integration/test_sliding.py` guards
    them).
    """

    work: Work
    patience_seconds: float
    #: Records of this generation of the group belong to somebody else by now.
    gone_generation: int | None = None

    def _create_directories(self) -> None:
        """Faust would make a folder for each app where the process was started; lanes keep no tables."""

    def _new_transport(self) -> Any:
        transport = super()._new_transport()
        transport.Consumer = _Consumer
        transport.Producer = Unused
        return transport

    async def _consumer_wait_empty(self, consumer: Any, logger: Any) -> None:
        self.gone_generation = self.consumer_generation_id
        await self.work.quiesce(self)

    async def commit(self, topic: str, offsets: dict[int, int]) -> None:
        """Commits offsets by partition, of those that are still this lane's."""
        if offsets:
            await self.consumer._commit({TP(topic, partition): offset for partition, offset in offsets.items()})


def consumer_group(settings: Settings, lane_name: str) -> str:
    """The consumer group of a lane."""
    return f"{settings.kafka_topic_prefix}comms-{lane_name}"


def build_app(lane: Lane, settings: Settings) -> LaneApp:
    """The Faust app of a lane."""
    app = LaneApp(
        consumer_group(settings, lane.name),
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        monitor=Unwatched(),
        Stream=Handed,
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        # `Work.quiesce` waits instead: for as much as its work needs, not until all of it is done.
        stream_wait_empty=False,
        # Bounded in records, so small: a record may have 2 MiB.
        stream_buffer_maxsize=max(64, lane.ahead_records),
        broker_max_poll_records=500,
        # Of each partition, in the consumer's own memory. A larger record comes all the same, alone.
        consumer_max_fetch_size=128 * 1024,
        broker_max_poll_interval=1000.0,
        broker_commit_interval=1.0,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        broker_request_timeout=30.0,
        agent_supervisor="mode.supervisors.CrashingSupervisor",
    )
    app.work = lane.work()
    app.patience_seconds = lane.patience_seconds
    source = app.topic(settings.kafka_topic_prefix + lane.topic, schema=Raw(**_RAW))

    @app.agent(source, name=lane.name)  # type: ignore[untyped-decorator]
    async def feed(stream: Any) -> None:
        """Only hands over: Faust's own work on the next records goes on while these wait for servers."""
        app.work.start(app)
        async for event in stream.events():
            if event.message.generation_id != app.gone_generation and not app.work.feed(event):
                await app.work.room()

    return app


def _credentials(settings: Settings) -> SASLCredentials | SSLCredentials | None:
    context = ssl_context(settings)
    if settings.kafka_security_protocol.startswith("SASL"):
        return SASLCredentials(
            username=settings.kafka_sasl_username,
            password=settings.kafka_sasl_password,
            mechanism=settings.kafka_sasl_mechanism,
            ssl_context=context,
        )
    return SSLCredentials(context) if context is not None else None
