"""The commands' way to Kafka and Postgres: connected for one question, and their absence as one sentence."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from cli import CommandError
from models.session import create_engine
from models.settings import Settings
from streams.errors import is_passing, sqlstate
from streams.kafka import client_options

_CLIENT = "comms-cli"
_TIMEOUT_MS = 10_000
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_UNDEFINED_TABLE = "42P01"


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


async def partitions(admin: AIOKafkaAdminClient) -> dict[str, list[int]]:
    """The partitions of every topic there is."""
    return {
        topic["topic"]: sorted(partition["partition"] for partition in topic["partitions"])
        for topic in await admin.describe_topics()
    }


def _kafka_away(settings: Settings, error: Exception) -> CommandError:
    return CommandError(f"Kafka at {settings.kafka_bootstrap_servers} does not answer ({type(error).__name__})")


@asynccontextmanager
async def database(settings: Settings) -> AsyncIterator[AsyncConnection]:
    """One connection, in a transaction.

    Raises:
        CommandError: when the database doesn't answer, or its tables are missing.
    """
    engine = create_engine(settings, name=_CLIENT, pool_size=1)
    try:
        async with engine.begin() as connection:
            yield connection
    except (DBAPIError, OSError) as error:
        if sqlstate(error) == _UNDEFINED_TABLE:
            raise CommandError("the database has no tables yet: run `comms migrate`") from None
        if is_passing(error):
            raise CommandError("the database at DATABASE_URL does not answer") from None
        raise
    finally:
        await engine.dispose()
