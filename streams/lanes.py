"""A lane: one Faust app with one input topic, one consumer group and one agent.

Measured rules that keep it from losing messages: raw bytes, `noack_take`, acks in order after all that a batch caused
is durable, and a crash of the agent ends the process. An agent that raises inside `take()` or `async for` loses what it
held; here it never does (docs/decisions/0002-lanes.md).
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faust
from faust.auth import SASLCredentials, SSLCredentials

from models.settings import Settings
from streams.header_names import tolerate_header_names
from streams.kafka import ssl_context
from streams.metrics import BATCH_SECONDS, QUEUE_AGE, RECORDS
from streams.records import Incoming, headers_from

tolerate_header_names()

_RAW = {"key_type": bytes, "key_serializer": "raw", "value_type": bytes, "value_serializer": "raw"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Lane:
    """What one lane reads and what it does with a batch."""

    name: str
    #: Topic without prefix.
    topic: str
    #: Returns when all that the batch caused is durable; raises only when the process had better end.
    handle: Callable[[Sequence[Incoming]], Awaitable[None]]
    batch_records: int
    #: How long a batch waits for more records; also the pace of the lane's idle loop.
    linger_seconds: float


def consumer_group(settings: Settings, lane_name: str) -> str:
    """The consumer group of a lane."""
    return f"{settings.kafka_topic_prefix}comms-{lane_name}"


def build_app(lane: Lane, settings: Settings) -> faust.App:
    """The Faust app of a lane."""
    app = faust.App(
        consumer_group(settings, lane.name),
        broker=[f"kafka://{server.strip()}" for server in settings.kafka_bootstrap_servers.split(",")],
        broker_credentials=_credentials(settings),
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
    async def consume(stream: Any) -> None:
        async for events in stream.noack_take(lane.batch_records, within=lane.linger_seconds):
            await _finish(lane, [_incoming(lane.topic, event.message) for event in events])
            for event in events:
                event.ack()

    return app


async def _finish(lane: Lane, records: Sequence[Incoming]) -> None:
    started = time.perf_counter()
    now_ms = time.time() * 1000
    age = QUEUE_AGE.labels(lane.name)
    for record in records:
        age.observe(max(0.0, now_ms - record.timestamp_ms) / 1000)
    await lane.handle(records)
    RECORDS.labels(lane.name).inc(len(records))
    BATCH_SECONDS.labels(lane.name).observe(time.perf_counter() - started)


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
