"""A lane: one Faust app with one input topic, one consumer group and one agent.

Measured rules that keep it from losing messages: raw bytes, `noack_take`, acks in order after all that a batch caused
is durable, and a crash of the agent ends the process. An agent that raises inside `take()` or `async for` loses what it
held; here it never does (docs/decisions/0002-lanes.md).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faust
from faust.auth import SASLCredentials, SSLCredentials

from models.settings import Settings
from streams.faust_pace import hand_over_several_a_turn
from streams.header_names import tolerate_header_names
from streams.kafka import ssl_context
from streams.metrics import BATCH_SECONDS, QUEUE_AGE, RECORDS
from streams.records import Incoming, headers_from

tolerate_header_names()
hand_over_several_a_turn()

_RAW = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}


#: A batch of no more records than this says that the lane is quiet.
_TINY_BATCH = 16

#: The second part of a batch's work.
Finish = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one lane reads and what it does with a batch."""

    name: str
    #: Topic without prefix.
    topic: str
    #: Does the first part of a batch's work and returns the second, which ends when all that the batch caused is
    #: durable. The second part of a batch runs beside the first part of the next one, and before that one's second.
    #: Both raise only when the process had better end.
    begin: Callable[[Sequence[Incoming]], Awaitable[Finish]]
    batch_records: int
    #: How long Faust collects; the pace of the lane's idle loop.
    linger_seconds: float
    #: How long a busy lane waits for a batch to fill up.
    patience_seconds: float = 0.0


class _Unwatched(faust.Monitor):  # type: ignore[misc]
    """Faust's own monitor keeps books on each record that nobody reads: ours are in `streams.metrics`."""

    def on_message_in(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def on_stream_event_in(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def on_stream_event_out(self, *_: Any, **__: Any) -> None:
        """Nothing."""

    def on_message_out(self, *_: Any, **__: Any) -> None:
        """Nothing."""


class Backlog:
    """Records between a lane's stream and its work, in order: what comes while a batch is worked on is the next one."""

    def __init__(self, *, room: int) -> None:
        self._room = room
        self._events: deque[Any] = deque()
        self._changed = asyncio.Condition()
        self._is_busy = False

    async def put(self, events: Sequence[Any]) -> None:
        """Adds records, once there is room."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self._events) < self._room)
            self._events.extend(events)
            self._changed.notify_all()

    async def next_batch(self, most: int, *, patience_seconds: float) -> list[Any]:
        """The oldest records, `most` at the most; waits for the first.

        Where the last batch was no tiny one, more are on their way: a few milliseconds make a batch of them that costs
        less than two. In a quiet lane nothing waits.
        """
        async with self._changed:
            await self._changed.wait_for(lambda: self._events)
            if self._is_busy and len(self._events) < most and patience_seconds:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(patience_seconds):
                        await self._changed.wait_for(lambda: len(self._events) >= most)
            taken = [self._events.popleft() for _ in range(min(most, len(self._events)))]
            self._is_busy = len(taken) > _TINY_BATCH
            self._changed.notify_all()
        return taken


def consumer_group(settings: Settings, lane_name: str) -> str:
    """The consumer group of a lane."""
    return f"{settings.kafka_topic_prefix}comms-{lane_name}"


class _App(faust.App):  # type: ignore[misc]
    def _create_directories(self) -> None:
        """Faust would make a folder for each app where the process was started; lanes keep no tables."""


def build_app(lane: Lane, settings: Settings) -> faust.App:
    """The Faust app of a lane."""
    app = _App(
        consumer_group(settings, lane.name),
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
        monitor=_Unwatched(),
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        consumer_auto_offset_reset="earliest",
        stream_wait_empty=True,
        # Bounded in records, so small: a record may have 2 MiB.
        stream_buffer_maxsize=max(64, 2 * lane.batch_records),
        broker_max_poll_records=500,
        broker_max_poll_interval=1000.0,
        broker_commit_interval=1.0,
        broker_session_timeout=10.0,
        broker_heartbeat_interval=3.0,
        broker_request_timeout=30.0,
        agent_supervisor="mode.supervisors.CrashingSupervisor",
    )
    source = app.topic(settings.kafka_topic_prefix + lane.topic, **_RAW)

    @app.agent(source, name=lane.name)  # type: ignore[untyped-decorator]
    async def feed(stream: Any) -> None:
        """Only collects: Faust's own work on the next batch goes on while this one waits for servers."""
        backlog = Backlog(room=2 * lane.batch_records)
        # Futures of the app, so that an exception in one crashes the app also when no further record comes.
        app.add_future(_work(app, lane, backlog))
        async for events in stream.noack_take(lane.batch_records, within=lane.linger_seconds):
            await backlog.put(events)

    return app


async def _work(app: faust.App, lane: Lane, backlog: Backlog) -> None:
    finishing: asyncio.Future[None] | None = None
    while True:
        events = await backlog.next_batch(lane.batch_records, patience_seconds=lane.patience_seconds)
        finish = await _begin(lane, [_incoming(lane.topic, event.message) for event in events])
        if finishing is not None:
            await finishing
            if app.crashed:  # what the one before held must be read again, and an ack behind it would skip it
                return
        finishing = app.add_future(_finish(lane, finish, events))


async def _begin(lane: Lane, records: Sequence[Incoming]) -> Finish:
    now_ms = time.time() * 1000
    age = QUEUE_AGE.labels(lane.name)
    for record in records:
        age.observe(max(0.0, now_ms - record.timestamp_ms) / 1000)
    started = time.perf_counter()
    finish = await lane.begin(records)
    BATCH_SECONDS.labels(lane.name, "begin").observe(time.perf_counter() - started)
    return finish


async def _finish(lane: Lane, finish: Finish, events: Sequence[Any]) -> None:
    started = time.perf_counter()
    await finish()
    for event in events:
        event.ack()
    BATCH_SECONDS.labels(lane.name, "finish").observe(time.perf_counter() - started)
    RECORDS.labels(lane.name).inc(len(events))


def _incoming(topic: str, message: Any) -> Incoming:
    return Incoming(
        topic=topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=int(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=headers_from(message.headers),
    )


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
