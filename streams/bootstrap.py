"""Waits for the servers, and creates the topics of the catalogue. Partitions only grow."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import structlog
from aiokafka.admin import AIOKafkaAdminClient, NewPartitions, NewTopic
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from models.errors import Unavailable
from models.session import create_engine
from models.settings import Settings
from streams.errors import is_passing, sqlstate
from streams.kafka import client_options
from streams.topics import CATALOGUE

log = structlog.get_logger()

#: How long a start waits for servers that are starting themselves.
PATIENCE = timedelta(seconds=30)
_REACH_PAUSE_SECONDS = 1.0
#: By SQLSTATE: https://www.postgresql.org/docs/current/errcodes-appendix.html
_REFUSALS = {
    "3D000": "does not exist: create the database first",
    "28000": "refuses this user",
    "28P01": "refuses this password",
}
_LEADER_TRIES = 100
_LEADER_PAUSE_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class Created:
    """What `create_topics` did, by topic name with prefix."""

    new: tuple[str, ...]
    grown: tuple[str, ...]


async def reach(settings: Settings, *, patience: timedelta = PATIENCE) -> None:
    """Waits until database and broker answer: whoever starts everything at once starts them in any order.

    Raises:
        Unavailable: naming the one that doesn't answer, or the database that is not there.
    """
    await _patiently(lambda: _reach_database(settings), patience)
    await _patiently(lambda: cluster_id(settings), patience)


async def _patiently(work: Callable[[], Awaitable[object]], patience: timedelta) -> None:
    ends = time.monotonic() + patience.total_seconds()
    while True:
        try:
            await work()
        except Unavailable as error:
            if error.is_final or time.monotonic() > ends:
                raise
            log.warning(f"{error.dependency} does not answer yet")
            await asyncio.sleep(_REACH_PAUSE_SECONDS)
        else:
            return


async def _reach_database(settings: Settings) -> None:
    engine = create_engine(settings, name="comms-migrate", check_before_use=False)
    where = f"{engine.url.host}:{engine.url.port or 5432}/{engine.url.database}"
    try:
        async with engine.connect():
            pass
    except Exception as error:
        if is_passing(error):
            raise Unavailable("postgres", f"{where} does not answer ({type(error).__name__})") from error
        why = _REFUSALS.get(sqlstate(error), f"refuses ({type(error).__name__} {sqlstate(error)})")
        raise Unavailable("postgres", f"{where} {why}", is_final=True) from error
    finally:
        await engine.dispose()


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
