"""Live messages to connected clients, through Redis."""

from __future__ import annotations

from typing import Any

import orjson
from redis.asyncio import Redis
from sqlalchemy.ext.asyncio import AsyncEngine

from models.deliveries import Delivery
from models.repositories import inbox_items
from models.settings import Settings


def connect_redis(settings: Settings) -> Redis:
    """A client; connects on first use."""
    client: Redis = Redis.from_url(
        settings.redis_url, socket_timeout=2.0, socket_connect_timeout=2.0, health_check_interval=30
    )
    return client


class RedisAnnouncer:
    """Publishes to the user's own Redis channel; who isn't connected doesn't get it."""

    def __init__(self, redis: Redis, *, key_prefix: str) -> None:
        self._redis = redis
        self._key_prefix = key_prefix

    async def announce(self, user_id: str, message: dict[str, Any]) -> None:
        """Publishes one frame."""
        await self._redis.publish(f"{self._key_prefix}live:user:{user_id}", orjson.dumps(message))


class StoredInbox:
    """The inbox in Postgres."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def add(self, delivery: Delivery) -> bool:
        """Stores the delivery once; True when it is new."""
        async with self._engine.begin() as connection:
            return await inbox_items.add(connection, delivery)
