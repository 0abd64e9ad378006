"""The commands' way to Kafka and Postgres: connected for one question, and their absence as one sentence."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from cli import CommandError
from models.errors import Unavailable
from models.session import create_engine
from models.settings import Settings
from streams.errors import is_passing, sqlstate
from streams.kafka import client_options
from streams.letters import LetterReader, letter_reader
from streams.producer import Publisher

_CLIENT = "comms-cli"
_TIMEOUT_MS = 10_000
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED = {"42P01": "no tables yet", "42703": "tables of an older version"}


def _quiet_client() -> None:
    """The client's own log lines say in many words what we say in one sentence."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


@asynccontextmanager
async def kafka_reader(settings: Settings) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer without group: it reads, and leaves no trace.

    Raises:
        CommandError: when the broker doesn't answer.
    """
    _quiet_client()
    consumer = AIOKafkaConsumer(
        client_id=_CLIENT,
        enable_auto_commit=False,
        request_timeout_ms=_TIMEOUT_MS,
        **client_options(settings),
    )
    try:
        await consumer.start()
        yield consumer
    except (KafkaError, OSError) as error:
        raise _kafka_away(settings, error) from None
    finally:
        await consumer.stop()


@asynccontextmanager
async def kafka_admin(settings: Settings) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client.

    Raises:
        CommandError: when the broker doesn't answer.
    """
    _quiet_client()
    admin = AIOKafkaAdminClient(client_id=_CLIENT, request_timeout_ms=_TIMEOUT_MS, **client_options(settings))
    try:
        await admin.start()
        yield admin
    except (KafkaError, OSError) as error:
        raise _kafka_away(settings, error) from None
    finally:
        await admin.close()


@asynccontextmanager
async def letters(settings: Settings) -> AsyncIterator[LetterReader]:
    """A reader of dead letters.

    Raises:
        CommandError: when the broker doesn't answer.
    """
    _quiet_client()
    try:
        async with letter_reader(settings, name=_CLIENT) as reader:
            yield reader
    except Unavailable as error:
        raise CommandError(f"Kafka at {settings.kafka_bootstrap_servers} {error.reason}") from None


@asynccontextmanager
async def publisher(settings: Settings) -> AsyncIterator[Publisher]:
    """A producer that has reached its cluster.

    Raises:
        CommandError: when the broker doesn't answer.
    """
    _quiet_client()
    producer = Publisher(settings, name=_CLIENT)
    await producer.start()
    try:
        try:
            await asyncio.wait_for(producer.connected(), _TIMEOUT_MS / 1000)
        except TimeoutError:
            raise CommandError(f"Kafka at {settings.kafka_bootstrap_servers} does not answer") from None
        yield producer
    finally:
        await producer.stop()


async def partitions(admin: AIOKafkaAdminClient) -> dict[str, list[int]]:
    """The partitions of every topic there is."""
    return {
        topic["topic"]: sorted(partition["partition"] for partition in topic["partitions"])
        for topic in await admin.describe_topics()
    }


def _kafka_away(settings: Settings, error: Exception) -> CommandError:
    return CommandError(f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({type(error).__name__})")


@asynccontextmanager
async def database_engine(settings: Settings, *, pool_size: int = 2) -> AsyncIterator[AsyncEngine]:
    """An engine with a few connections.

    Raises:
        CommandError: when the database doesn't answer, or its tables are missing.
    """
    engine = create_engine(settings, name=_CLIENT, pool_size=pool_size)
    try:
        yield engine
    except (DBAPIError, OSError) as error:
        if sqlstate(error) in _UNDEFINED:
            raise CommandError(f"the database has {_UNDEFINED[sqlstate(error)]}: run `comms migrate`") from None
        if is_passing(error):
            raise CommandError("the database at DATABASE_URL does not answer") from None
        raise
    finally:
        await engine.dispose()


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """One connection, in a transaction. Raises like `database_engine`."""
    async with database_engine(settings, pool_size=1) as engine, engine.begin() as connection:
        yield connection
