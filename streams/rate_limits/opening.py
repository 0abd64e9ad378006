"""Opens the limits for a worker."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.ext.asyncio import AsyncEngine

from models.ids import fresh
from models.settings import Settings
from streams.rate_limits.scripts import LimitScripts
from streams.rate_limits.service import PATIENCE_SECONDS, RateLimits
from streams.rate_limits.upkeep import Upkeep


def limits_redis(settings: Settings) -> Redis:
    """A client that would rather fail than wait; connects on first use."""
    client: Redis = Redis.from_url(
        settings.redis_url,
        # Whoever asks has a deadline. The client's own costs a task for each command, and runs on `wait_for`, which
        # until Python 3.12 forgets that its task was cancelled when the command is done at that moment.
        socket_timeout=None,
        socket_connect_timeout=PATIENCE_SECONDS,
        # A connection that died while it was idle is made again; what hangs is not asked twice.
        retry=Retry(NoBackoff(), 1, supported_errors=(RedisConnectionError,)),
    )
    return client


@contextlib.asynccontextmanager
async def open_rate_limits(settings: Settings, engine: AsyncEngine) -> AsyncIterator[RateLimits]:
    """The limits of this process, kept fresh until the end. Waits for no server."""
    redis = limits_redis(settings)
    scripts = LimitScripts(redis, key_prefix=settings.redis_key_prefix)
    limits = RateLimits(scripts, workers=settings.workers)
    upkeep = Upkeep(limits, scripts, engine=engine, worker=f"{socket.gethostname()}-{os.getpid()}-{fresh().hex[-8:]}")
    task = asyncio.create_task(upkeep.run(), name="limits")
    try:
        yield limits
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await redis.aclose()
