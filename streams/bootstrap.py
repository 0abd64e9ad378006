"""Creates the topics of the catalogue. Partitions only grow."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from models.errors import Unavailable
from models.settings import Settings
from streams.kafka import client_options
from streams.topics import CATALOGUE

_LEADER_TRIES = 100
_LEADER_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Created:
    """What `create_topics` did, by topic name with prefix."""

    new: tuple[str, ...]
    grown: tuple[str, ...]


async def create_topics(settings: Settings) -> Created:
    """Makes what is missing and adds partitions where the settings ask for more.

    Raises:
        Unavailable: when the broker does not answer or refuses.
    """
    admin = AIOKafkaAdminClient(client_id="comms-migrate", **client_options(settings))
    try:
        await admin.start()
        existing = {topic["topic"]: len(topic["partitions"]) for topic in await admin.describe_topics()}
        new = [topic for topic in _wanted(settings) if topic.name not in existing]
        _check((await admin.create_topics(new)).topic_errors if new else [])
        grown = {
            topic.name: NewPartitions(topic.num_partitions)
            for topic in _wanted(settings)
            if existing.get(topic.name, topic.num_partitions) < topic.num_partitions
        }
        if grown:
            await admin.create_partitions(grown)
        if new or grown:
            await _led(admin, settings)
    except (KafkaError, OSError) as error:
        raise Unavailable("kafka", f"topics could not be created ({type(error).__name__})") from error
    finally:
        await admin.close()
    return Created(tuple(topic.name for topic in new), tuple(grown))


async def cluster_id(settings: Settings) -> str:
    """The id of the Kafka cluster: part of the ids of requests that bring none.

    Raises:
        Unavailable: when the broker does not answer.
    """
    admin = AIOKafkaAdminClient(client_id="comms", **client_options(settings))
    try:
        await admin.start()
        return str((await admin.describe_cluster())["cluster_id"])
    except (KafkaError, OSError) as error:
        raise Unavailable("kafka", f"does not answer ({type(error).__name__})") from error
    finally:
        await admin.close()


async def _led(admin: AIOKafkaAdminClient, settings: Settings) -> None:
    """Waits until every partition has a leader: a topic can be written only then."""
    wanted = {topic.name: topic.num_partitions for topic in _wanted(settings)}
    for _ in range(_LEADER_TRIES):
        topics = await admin.describe_topics(list(wanted))
        led = {
            topic["topic"]: sum(1 for partition in topic["partitions"] if partition["leader"] >= 0) for topic in topics
        }
        if all(led.get(name, 0) >= count for name, count in wanted.items()):
            return
        await asyncio.sleep(_LEADER_PAUSE_SECONDS)
    raise Unavailable("kafka", "some partitions of the new topics have no leader")


def _wanted(settings: Settings) -> list[NewTopic]:
    replication = settings.kafka_replication_factor
    in_sync = {"min.insync.replicas": str(max(1, replication - 1))}
    return [
        NewTopic(
            name=settings.kafka_topic_prefix + topic.name,
            num_partitions=settings.kafka_partitions,
            replication_factor=replication,
            topic_configs={**topic.settings(), **in_sync},
        )
        for topic in CATALOGUE.values()
    ]


def _check(errors: list[tuple[str, int, str | None]]) -> None:
    for _, code, *_ in errors:
        if code and for_code(code) is not TopicAlreadyExistsError:
            raise for_code(code)
