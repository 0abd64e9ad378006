"""The database engine."""

from __future__ import annotations

from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from models.settings import Settings


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


def create_engine(
    settings: Settings, *, name: str, pool_size: int | None = None, check_before_use: bool = True
) -> AsyncEngine:
    """An engine whose connections call themselves `name`. Connects on first use, not here.

    `check_before_use` finds the dead connections that a restarted server leaves in the pool, for a round trip each
    time; whoever repeats failed work anyhow does without.
    """
    return create_async_engine(
        settings.database_url,
        pool_size=pool_size or settings.database_pool_size,
        max_overflow=0,
        pool_timeout=10,
        pool_pre_ping=check_before_use,
        hide_parameters=True,  # errors are logged, and parameters are people's data
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
