"""Runs migrations with the service's own settings and tables."""

from __future__ import annotations

import asyncio

from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

import models.tables  # noqa: F401  fills the metadata
from alembic import context
from models.base import Table
from models.session import create_engine
from models.settings import load_settings

#: Two processes that migrate at once follow each other.
_LOCK = 727_002


def run(connection: Connection) -> None:
    context.configure(connection=connection, target_metadata=Table.metadata, compare_type=True)
    with context.begin_transaction():
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
        context.run_migrations()


async def migrate(engine: AsyncEngine) -> None:
    async with engine.connect() as connection:
        await connection.run_sync(run)
        await connection.commit()
    await engine.dispose()


asyncio.run(migrate(create_engine(load_settings(), name="comms-migrate")))
