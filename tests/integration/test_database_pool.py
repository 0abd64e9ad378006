"""Connections of the pool are looked at before use, but not those that worked a moment ago."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.session import create_engine
from tests.fixtures.service import Service

#: Longer than a connection counts as fresh.
_IDLE_SECONDS = 0.6


@pytest.fixture
async def engine(service: Service) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(service.settings, name="looked-at", pool_size=1, is_patient=False)
    yield engine
    await engine.dispose()


async def backend(engine: AsyncEngine) -> int:
    """The server's process behind the connection that is given now."""
    async with engine.connect() as connection:
        pid: int = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        return pid


async def test_one_that_a_restart_left_behind_is_replaced(service: Service, engine: AsyncEngine) -> None:
    first = await backend(engine)
    await service.execute(f"SELECT pg_terminate_backend({first})")
    await asyncio.sleep(_IDLE_SECONDS)
    assert await backend(engine) != first


async def test_one_that_worked_a_moment_ago_is_not_looked_at(service: Service, engine: AsyncEngine) -> None:
    first = await backend(engine)
    await service.execute(f"SELECT pg_terminate_backend({first})")
    with pytest.raises(DBAPIError) as raised:
        await backend(engine)
    assert raised.value.connection_invalidated
    assert await backend(engine) != first
