"""Whether the servers have what `comms migrate` makes: whoever is started before it waits for it."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.client import AIOKafkaClient
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import models.tables  # noqa: F401  fills the metadata
from models.base import Table
from models.errors import Unavailable
from models.settings import Settings
from streams.kafka import client_options
from streams.topics import CATALOGUE

_COLUMNS = text("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = current_schema()")
_PATIENCE_SECONDS = 5.0


async def migrated(engine: AsyncEngine, settings: Settings) -> None:
    """Returns when tables and topics are those that this version works with.

    Raises:
        Unavailable: naming the server that doesn't answer, or lacks something.
    """
    if await lacks_tables(engine):
        raise Unavailable("postgres", "tables are missing: run `comms migrate`")
    if await lacks_topics(settings):
        raise Unavailable("kafka", "topics are missing: run `comms migrate`")


async def lacks_tables(engine: AsyncEngine) -> bool:
    """Whether a table or column of this version is not there."""
    async with engine.connect() as connection:
        found = {(row.table_name, row.column_name) for row in await connection.execute(_COLUMNS)}
    wanted = {(table.name, column.name) for table in Table.metadata.tables.values() for column in table.columns}
    return not wanted <= found


async def lacks_topics(settings: Settings) -> bool:
    """Whether a topic of the catalogue is not there."""
    return not {settings.kafka_topic_prefix + name for name in CATALOGUE} <= await topics(settings)


async def topics(settings: Settings, *, within_seconds: float = _PATIENCE_SECONDS) -> set[str]:
    """The topics of the cluster.

    Raises:
        Unavailable: it does not answer in that time.
    """
    options: dict[str, Any] = client_options(settings)
    client = AIOKafkaClient(client_id="comms-look", request_timeout_ms=int(within_seconds * 1000), **options)
    try:
        async with asyncio.timeout(within_seconds):
            await client.bootstrap()
            cluster = await client.fetch_all_metadata()
            return set(cluster.topics(exclude_internal_topics=False))
    except Exception as error:
        raise Unavailable("kafka", f"does not answer ({type(error).__name__})") from error
    finally:
        await client.close()
