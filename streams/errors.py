"""Which errors mean "a server is away", which mean "this record is refused", and what to do about each."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import asyncpg
import structlog
from aiokafka.errors import KafkaError
from redis.exceptions import BusyLoadingError, ClusterDownError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.errors import Unavailable
from streams.metrics import HOLDS
from streams.watchdog import progress_of

log = structlog.get_logger()

T = TypeVar("T")
Item = TypeVar("Item")

_LONGEST_PAUSE_SECONDS = 5.0
#: SQLSTATE classes and codes that pass: connection, resources, shutdown, lock and serialisation failures.
#: https://www.postgresql.org/docs/current/errcodes-appendix.html
_PASSING = ("08", "40001", "40P01", "53", "55P03", "57", "58")
_AWAY = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.InterfaceError,
    KafkaError,
    PoolTimeoutError,
    RedisConnectionError,
    RedisTimeoutError,
    # Full, read-only, starting, without its master: it answers, and does nothing.
    BusyLoadingError,
    ClusterDownError,
    OutOfMemoryError,
    ReadOnlyError,
    Unavailable,
)
#: The words that such answers begin with where the client has no class for them.
#: https://valkey.io/topics/persistence/ (MISCONF: the disk is full), https://valkey.io/topics/replication/
_REDIS_PASSING = ("MISCONF", "NOREPLICAS", "BUSY ", "TRYAGAIN")
#: The data itself is refused: data exceptions, constraint violations, and what is larger than an index entry can be.
_REFUSING = ("22", "23", "54")


def sqlstate(error: BaseException) -> str:
    """The SQLSTATE of a database error; empty where there is none."""
    found = getattr(getattr(error, "orig", error), "sqlstate", None)
    return found if isinstance(found, str) else ""


def is_refusal(error: BaseException) -> bool:
    """Whether the database, or its driver on the way there, refuses the data: the same batch will never pass."""
    driver_error = getattr(getattr(error, "orig", None), "__cause__", None)
    return sqlstate(error).startswith(_REFUSING) or isinstance(driver_error, asyncpg.DataError)


def is_passing(error: BaseException) -> bool:
    """Whether a server is away or busy: the same work will pass later."""
    if is_refusal(error):
        return False
    if isinstance(error, DBAPIError | asyncpg.PostgresError):
        state = sqlstate(error)
        return not state or state.startswith(_PASSING)
    if isinstance(error, ResponseError) and str(error).startswith(_REDIS_PASSING):
        return True
    return isinstance(error, _AWAY)


async def persistently(work: Callable[[], Awaitable[T]], *, lane: str) -> T:
    """Does the work, again and again while a server is away. Never gives up; other errors pass through.

    The work must be harmless to repeat, and its every wait must end: the lane holds between two tries, not in them.
    """
    pause = 0.1
    progress = progress_of(lane)
    while True:
        try:
            return await work()
        except Exception as error:
            if not is_passing(error):
                raise
            reason = _name(error)
        HOLDS.labels(lane).inc()
        log.warning("holding: a server is away", lane=lane, error=reason, pause_seconds=pause)
        with progress.holding(reason):
            await asyncio.sleep(pause)
        pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)


async def halved(
    items: Sequence[Item],
    work: Callable[[Sequence[Item]], Awaitable[None]],
    refused: Callable[[Item], Awaitable[None]],
) -> None:
    """Does the work for a batch; where the database refuses the data, finds the guilty item by halving.

    The work must be harmless to repeat. `refused` is called for each item that is refused alone.
    """
    try:
        await work(items)
    except Exception as error:
        if not is_refusal(error):
            raise
        if len(items) == 1:
            await refused(items[0])
            return
        middle = len(items) // 2
        await halved(items[:middle], work, refused)
        await halved(items[middle:], work, refused)


def _name(error: BaseException) -> str:
    if isinstance(error, Unavailable):
        return str(error)
    return f"{type(error).__name__} {sqlstate(error)}".strip()
