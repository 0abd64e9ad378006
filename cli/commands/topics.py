"""`comms topics`: the catalogue as the broker has it."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import CommandError
from cli.render import Output

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition
    from aiokafka.admin import AIOKafkaAdminClient

    from models.settings import Settings

#: Kafka's code for a topic in a DescribeConfigs request.
_TOPIC_RESOURCE_FIELDS = slice(3, 5)


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicState:
    """A topic as it is. `messages` counts what is kept; lag is by consumer group, in records."""

    name: str
    partitions: int
    messages: int
    retention: str
    lag: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All topics of the catalogue that are there, and what is missing."""

    topics: list[TopicState]
    missing: list[str]
    #: Topics with fewer partitions than KAFKA_PARTITIONS.
    too_small: list[str]


def topics(*, json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Show the service's topics: partitions, messages, retention, and each consumer group's lag.

    The exit code is 1 when topics or partitions are missing.
    """
    from models.settings import load_settings

    report = asyncio.run(inspect(load_settings()))
    output = Output()
    if json:
        output.json(asdict(report))
    else:
        _show(report, output)
    if report.missing:
        raise CommandError(f"missing: {', '.join(report.missing)}; `comms migrate` makes them")
    if report.too_small:
        raise CommandError(
            f"fewer partitions than KAFKA_PARTITIONS: {', '.join(report.too_small)}; `comms migrate` adds them"
        )


async def inspect(settings: Settings) -> Report:
    """Asks the broker about every topic of the catalogue.

    Raises:
        CommandError: when the broker doesn't answer.
    """
    from cli.servers import kafka_admin, kafka_reader, partitions
    from streams.topics import CATALOGUE

    async with kafka_reader(settings) as consumer, kafka_admin(settings) as admin:
        names = {settings.kafka_topic_prefix + name for name in CATALOGUE}
        known = await partitions(admin)
        there = sorted(names & known.keys(), key=_in_order_of(settings.kafka_topic_prefix))
        spans = await _spans(consumer, {name: known[name] for name in there})
        committed = await _committed(admin)
        retention = await _retention(admin, there)
    return Report(
        topics=[_state(name, spans, committed, retention) for name in there],
        missing=sorted(names - set(there)),
        too_small=[name for name in there if len(spans[name]) < settings.kafka_partitions],
    )


def _in_order_of(prefix: str) -> Any:
    from streams.topics import CATALOGUE

    order = {prefix + name: place for place, name in enumerate(CATALOGUE)}
    return order.__getitem__


Spans = dict[str, dict[int, tuple[int, int]]]
Committed = dict[str, dict["TopicPartition", int]]


async def _spans(consumer: AIOKafkaConsumer, topics: dict[str, list[int]]) -> Spans:
    """First and next offset of each partition."""
    from aiokafka import TopicPartition

    places = [TopicPartition(name, number) for name, numbers in topics.items() for number in numbers]
    first = await consumer.beginning_offsets(places)
    end = await consumer.end_offsets(places)
    spans: Spans = {name: {} for name in topics}
    for place in places:
        spans[place.topic][place.partition] = (first[place], end[place])
    return spans


async def _committed(admin: AIOKafkaAdminClient) -> Committed:
    """What each consumer group has committed."""
    groups = sorted({group[0] for group in await admin.list_consumer_groups()})
    offsets = await asyncio.gather(*(admin.list_consumer_group_offsets(group) for group in groups))
    return {
        group: {place: found.offset for place, found in by_place.items() if found.offset >= 0}
        for group, by_place in zip(groups, offsets, strict=True)
    }


async def _retention(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, str]:
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

    wanted = {"cleanup.policy": None, "retention.ms": None}
    resources = [ConfigResource(ConfigResourceType.TOPIC, name, configs=wanted) for name in names]
    responses = await admin.describe_configs(resources) if names else []
    found = {}
    for response in responses:
        for resource in response.resources:
            name, entries = resource[_TOPIC_RESOURCE_FIELDS]
            found[name] = retention_text({entry[0]: entry[1] for entry in entries})
    return found


def retention_text(config: dict[str, str]) -> str:
    """`7 d`, `36 h`, `compacted`, `for ever`."""
    if "compact" in config.get("cleanup.policy", ""):
        return "compacted"
    milliseconds = int(config.get("retention.ms", "-1"))
    if milliseconds < 0:
        return "for ever"
    for unit, size in (("d", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000)):
        if milliseconds >= size and milliseconds % size == 0:
            return f"{milliseconds // size} {unit}"
    return f"{milliseconds} ms"


def _state(name: str, spans: Spans, committed: Committed, retention: dict[str, str]) -> TopicState:
    own = spans[name]
    return TopicState(
        name=name,
        partitions=len(own),
        messages=sum(end - first for first, end in own.values()),
        retention=retention.get(name, "unknown"),
        lag=lags(name, own, committed),
    )


def lags(name: str, spans: dict[int, tuple[int, int]], committed: Committed) -> dict[str, int]:
    """Records that each group which reads this topic has yet to read; all that is kept where it committed nothing."""
    found = {}
    for group, offsets in committed.items():
        at = {place.partition: offset for place, offset in offsets.items() if place.topic == name}
        if at:
            found[group] = sum(end - max(at.get(number, first), first) for number, (first, end) in spans.items())
    return found


def _show(report: Report, output: Output) -> None:
    output.table(
        ("topic", "partitions", "messages", "retention", "lag"),
        [
            (
                topic.name,
                topic.partitions,
                topic.messages,
                topic.retention,
                ", ".join(f"{group}: {lag}" for group, lag in topic.lag.items()),
            )
            for topic in report.topics
        ],
        right=("partitions", "messages"),
    )
