"""Builds all that a worker runs: the lanes, the delay line, and the rooms that wait in the database."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from mode import Service
from sqlalchemy.ext.asyncio import AsyncEngine

from models.enums import Channel, Priority
from models.errors import Refused
from models.settings import Settings
from streams.agents.contacts import ContactStage
from streams.agents.deliveries import DeliveryStage
from streams.agents.provider_events import LANE as PROVIDER_EVENTS_LANE
from streams.agents.provider_events import ProviderEventStage
from streams.agents.requests import RequestStage, Reserves, Unlimited
from streams.agents.sending import Sender
from streams.batches import Batches
from streams.bounce_guard import BounceGuard
from streams.channels.asked import Calls
from streams.channels.chain import Chain
from streams.channels.pace import Paces, Unpaced, told_to
from streams.channels.push import PushChain
from streams.clock import now
from streams.delay_line import DelayLine
from streams.directory import Directory
from streams.domain.templates import Renderer
from streams.intake import Publishes
from streams.lanes import Lane, build_app
from streams.people import People
from streams.people_versions import NoVersions, VersionsPeople
from streams.provider_states import ProviderStates, StateTeller
from streams.providers.base import NotificationProvider
from streams.queue_reader import QueueReader
from streams.queue_sampler import QueueSampler
from streams.replay import ReplayRoom
from streams.sliding import Sliding
from streams.topics import CONTACTS, PROVIDER_EVENTS, TIERS, request_topic, send_topic
from streams.unmatched_events import NAME as UNMATCHED_EVENTS
from streams.unmatched_events import UnmatchedEvents
from streams.waiting_room import outbox_room, schedule_room

#: How long a quiet lane waits for more than the first record: not at all where people wait.
_LINGER_SECONDS = {Priority.HIGH: 0.0, Priority.NORMAL: 0.005, Priority.LOW: 0.02}
#: How long a busy lane waits for a batch to fill up, and before it reads on.
_PATIENCE_SECONDS = {Priority.HIGH: 0.0, Priority.NORMAL: 0.05, Priority.LOW: 0.1}
#: What Faust may fetch ahead of a window, which has room of its own.
_AHEAD_RECORDS = 256
#: Providers' events of one transaction. More would hold the locks of their notifications for longer.
_EVENT_BATCH = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What the lanes are made of."""

    settings: Settings
    engine: AsyncEngine
    publisher: Publishes
    providers: Mapping[Channel, Sequence[NotificationProvider]]
    cluster_id: str
    limits: Paces = field(default_factory=Unpaced)
    #: The limits of people.
    slots: Reserves = field(default_factory=Unlimited)
    #: What tells whether kept people still hold.
    people: VersionsPeople = field(default_factory=NoVersions)
    #: Where the states of providers are told, if anywhere.
    states: ProviderStates | None = None


def part_names() -> list[str]:
    """The names of all that a worker can run, for `comms worker --only`."""
    return [
        *(f"requests-{priority}" for priority in Priority),
        *(f"send-{channel}-{priority}" for channel in Channel for priority in Priority),
        "contacts",
        PROVIDER_EVENTS_LANE,
        *(f"delay-{tier}" for tier in TIERS),
        "outbox",
        "schedules",
        UNMATCHED_EVENTS,
        "queue-metrics",
        "replays",
        "bounce-guard",
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
    chains = {channel: _chain(parts, channel) for channel in Channel}
    apps = [build_app(lane, parts.settings) for lane in _lanes(parts, chains) if lane.name in names]
    tiers = [
        DelayLine(tier, engine=parts.engine, publisher=parts.publisher, settings=parts.settings)
        for tier in TIERS
        if f"delay-{tier}" in names
    ]
    rooms: list[Service] = [outbox_room(parts.engine, parts.publisher)] if "outbox" in names else []
    if "schedules" in names:
        rooms.append(schedule_room(parts.engine, parts.publisher))
    if UNMATCHED_EVENTS in names:
        rooms.append(UnmatchedEvents(engine=parts.engine, publisher=parts.publisher, settings=parts.settings))
    if "queue-metrics" in names:
        rooms.append(QueueSampler(engine=parts.engine, reader=QueueReader(parts.settings)))
    if "bounce-guard" in names:
        rooms.append(BounceGuard(engine=parts.engine, settings=parts.settings))
    if "replays" in names:
        rooms.append(ReplayRoom(engine=parts.engine, publisher=parts.publisher, settings=parts.settings))
    watched = [chains[channel] for channel in Channel if any(name.startswith(f"send-{channel}-") for name in names)]
    if parts.states is not None and watched:
        rooms.append(StateTeller(parts.states, watched))
    return [*apps, *tiers, *rooms]


def _lanes(parts: Parts, chains: Mapping[Channel, Calls]) -> Iterator[Lane]:
    yield from _request_lanes(parts)
    for channel in Channel:
        yield from _channel_lanes(parts, chains[channel])
    contacts = ContactStage(clock=now, engine=parts.engine, publisher=parts.publisher, people=parts.people)
    work = partial(
        Batches, lane="contacts", topic=CONTACTS, begin=contacts.begin, batch_records=200, linger_seconds=0.02
    )
    yield Lane(name="contacts", topic=CONTACTS, work=work, ahead_records=400)
    yield _provider_event_lane(parts)


def _provider_event_lane(parts: Parts) -> Lane:
    stage = ProviderEventStage(clock=now, engine=parts.engine, publisher=parts.publisher, settings=parts.settings)
    work = partial(
        Batches,
        lane=PROVIDER_EVENTS_LANE,
        topic=PROVIDER_EVENTS,
        begin=stage.begin,
        batch_records=_EVENT_BATCH,
        linger_seconds=0.02,
        patience_seconds=0.05,
    )
    return Lane(name=PROVIDER_EVENTS_LANE, topic=PROVIDER_EVENTS, work=work, ahead_records=2 * _EVENT_BATCH)


def _request_lanes(parts: Parts) -> Iterator[Lane]:
    stage = RequestStage(
        engine=parts.engine,
        publisher=parts.publisher,
        renderer=Renderer(),
        directory=Directory(People(parts.people)),
        settings=parts.settings,
        cluster_id=parts.cluster_id,
        limits=parts.slots,
        clock=now,
    )
    batch_records = parts.settings.request_batch
    for priority in Priority:
        name, topic = f"requests-{priority}", request_topic(priority)
        work = partial(
            Batches,
            lane=name,
            topic=topic,
            begin=partial(stage.begin, priority),
            batch_records=batch_records,
            linger_seconds=_LINGER_SECONDS[priority],
            patience_seconds=_PATIENCE_SECONDS[priority],
        )
        patience_seconds = _PATIENCE_SECONDS[priority]
        yield Lane(
            name=name, topic=topic, work=work, ahead_records=2 * batch_records, patience_seconds=patience_seconds
        )


def _chain(parts: Parts, channel: Channel) -> Chain | PushChain:
    told = told_to(parts.limits)
    if channel is Channel.PUSH:
        return PushChain(
            parts.providers[channel], parts.settings, limits=parts.limits, wall_clock=now, on_retry_after=told
        )
    return Chain(channel, parts.providers[channel], parts.settings, wall_clock=now, on_retry_after=told)


def _channel_lanes(parts: Parts, chain: Calls) -> Iterator[Lane]:
    """The lanes of a channel share its providers' health."""
    for priority in Priority:
        topic = send_topic(chain.channel, priority)
        yield Lane(
            name=f"send-{chain.channel}-{priority}",
            topic=topic,
            work=partial(_sliding, parts, chain, priority, topic),
            ahead_records=_AHEAD_RECORDS,
            patience_seconds=_PATIENCE_SECONDS[priority],
        )


def _sliding(parts: Parts, chain: Calls, priority: Priority, topic: str) -> Sliding:
    stage = DeliveryStage(
        channel=chain.channel,
        priority=priority,
        engine=parts.engine,
        publisher=parts.publisher,
        settings=parts.settings,
        people=parts.people,
        clock=now,
    )
    sender = Sender(
        channel=chain.channel,
        priority=priority,
        stage=stage,
        chain=chain,
        limits=parts.limits,
        lease_seconds=parts.settings.claim_lease.total_seconds(),
        linger_seconds=_LINGER_SECONDS[priority],
        patience_seconds=_PATIENCE_SECONDS[priority],
    )
    return Sliding(sender, topic=parts.settings.kafka_topic_prefix + topic)
