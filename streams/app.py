"""Builds all that a worker runs: the lanes, the delay line, and the rooms that wait in the database."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from mode import Service
from sqlalchemy.ext.asyncio import AsyncEngine

from models.enums import Channel, Priority
from models.errors import Refused
from models.settings import Settings
from streams.agents.contacts import ContactStage
from streams.agents.deliveries import DeliveryStage
from streams.agents.requests import RequestStage
from streams.delay_line import DelayLine
from streams.directory import Directory
from streams.domain.templates import Renderer
from streams.intake import Publishes
from streams.lanes import Lane, build_app
from streams.providers.base import NotificationProvider
from streams.queue_reader import QueueReader
from streams.queue_sampler import QueueSampler
from streams.topics import CONTACTS, TIERS, request_topic, send_topic
from streams.waiting_room import outbox_room, schedule_room

#: How long Faust collects records, which is also the pace of an idle lane: short where people wait.
_LINGER_SECONDS = {Priority.HIGH: 0.02, Priority.NORMAL: 0.03, Priority.LOW: 0.05}
#: How long a busy lane waits for a batch to fill up: not at all where people wait.
_PATIENCE_SECONDS = {Priority.HIGH: 0.0, Priority.NORMAL: 0.05, Priority.LOW: 0.1}
#: The linger of a channel without provider, where nothing but failures is to be told.
_UNUSED_LINGER_SECONDS = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the lanes are made of."""

    settings: Settings
    engine: AsyncEngine
    publisher: Publishes
    providers: Mapping[Channel, Sequence[NotificationProvider]]
    cluster_id: str


def part_names() -> list[str]:
    """The names of all that a worker can run, for `comms worker --only`."""
    return [
        *(f"requests-{priority}" for priority in Priority),
        *(f"send-{channel}-{priority}" for channel in Channel for priority in Priority),
        "contacts",
        *(f"delay-{tier}" for tier in TIERS),
        "outbox",
        "schedules",
        "queue-metrics",
    ]


def chosen_names(only: Sequence[str]) -> set[str]:
    """The parts that patterns such as `send-email-*` name; all for none.

    Raises:
        Refused: when a pattern names nothing.
    """
    names = part_names()
    if not only:
        return set(names)
    chosen: set[str] = set()
    for pattern in only:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise Refused("--only", f"{pattern!r} is no lane (there are: {', '.join(names)})")
        chosen.update(found)
    return chosen


def build_services(parts: Parts, names: set[str]) -> list[Service]:
    """The services by these names, not started."""
    apps = [build_app(lane, parts.settings) for lane in _lanes(parts) if lane.name in names]
    tiers = [
        DelayLine(tier, engine=parts.engine, publisher=parts.publisher, settings=parts.settings)
        for tier in TIERS
        if f"delay-{tier}" in names
    ]
    rooms: list[Service] = [outbox_room(parts.engine, parts.publisher)] if "outbox" in names else []
    if "schedules" in names:
        rooms.append(schedule_room(parts.engine, parts.publisher))
    if "queue-metrics" in names:
        rooms.append(QueueSampler(engine=parts.engine, reader=QueueReader(parts.settings)))
    return [*apps, *tiers, *rooms]


def _lanes(parts: Parts) -> Iterator[Lane]:
    yield from _request_lanes(parts)
    yield from _channel_lanes(parts)
    contacts = ContactStage(engine=parts.engine, publisher=parts.publisher)
    yield Lane(name="contacts", topic=CONTACTS, begin=contacts.begin, batch_records=200, linger_seconds=0.1)


def _request_lanes(parts: Parts) -> Iterator[Lane]:
    stage = RequestStage(
        engine=parts.engine,
        publisher=parts.publisher,
        renderer=Renderer(),
        directory=Directory(),
        settings=parts.settings,
        cluster_id=parts.cluster_id,
    )
    for priority in Priority:
        yield Lane(
            name=f"requests-{priority}",
            topic=request_topic(priority),
            begin=partial(stage.begin, priority),
            batch_records=parts.settings.request_batch,
            linger_seconds=_LINGER_SECONDS[priority],
            patience_seconds=_PATIENCE_SECONDS[priority],
        )


def _channel_lanes(parts: Parts) -> Iterator[Lane]:
    for channel in Channel:
        for priority in Priority:
            stage = DeliveryStage(
                channel=channel,
                priority=priority,
                providers=parts.providers[channel],
                engine=parts.engine,
                publisher=parts.publisher,
                settings=parts.settings,
            )
            yield Lane(
                name=f"send-{channel}-{priority}",
                topic=send_topic(channel, priority),
                begin=stage.begin,
                # One batch is being called while the one before is being recorded: together never more than the call
                # slots, so that a killed worker leaves no more than these in doubt.
                batch_records=max(1, _call_slots(parts, channel) // 2),
                linger_seconds=_LINGER_SECONDS[priority] if parts.providers[channel] else _UNUSED_LINGER_SECONDS,
                patience_seconds=_PATIENCE_SECONDS[priority],
            )


def _call_slots(parts: Parts, channel: Channel) -> int:
    """How many calls of a lane of this channel may be unrecorded at a time.

    Where the provider itself bounds its calls, a few for each of its slots: they take turns within a batch, and a claim
    whose turn comes late is renewed.
    """
    bounds = [4 * provider.most_calls for provider in parts.providers[channel][:1] if provider.most_calls is not None]
    return min([parts.settings.calls_in_flight, *bounds])
