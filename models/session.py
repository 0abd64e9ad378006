"""The database engine."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from models.settings import Settings


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def create_engine(settings: Settings, *, name: str, pool_size: int | None = None) -> AsyncEngine:
    """An engine whose connections call themselves `name`. Connects on first use, not here."""
    return create_async_engine(
        settings.database_url,
        pool_size=pool_size or settings.database_pool_size,
        max_overflow=0,
        pool_timeout=10,
        # A server that was restarted leaves dead connections in the pool: they are found before use, not by a failure.
        pool_pre_ping=True,
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        connect_args={
            "timeout": 5,
            "command_timeout": 30,
            "server_settings": {
                "application_name": name,
                # A plan made while a table was empty scans it whole; ours are cheap to plan and must fit today's size.
                "plan_cache_mode": "force_custom_plan",
                "jit": "off",
            },
        },
    )
