"""The database engine."""

from __future__ import annotations

import asyncio
import socket
import time
from datetime import timedelta
from typing import Any

import asyncpg
import orjson
from sqlalchemy import event
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool, ConnectionPoolEntry

from models.circuit import Circuit
from models.settings import Settings

#: A server that is unplugged says nothing: data that it leaves unacknowledged for so long ends the connection, and so
#: do probes on an idle one. (A server that hangs has a kernel that acknowledges: there the timeouts below count.)
_SILENCE = timedelta(seconds=10)
_KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 3, "TCP_KEEPCNT": 3}
#: A connection that was given back so lately needs no check before it is used again: that takes three round trips.
_FRESH_SECONDS = 0.5


def create_engine(
    settings: Settings,
    *,
    name: str,
    pool_size: int | None = None,
    check_before_use: bool = True,
    is_patient: bool = True,
) -> AsyncEngine:
    """An engine whose connections call themselves `name`. Connects on first use, not here.

    `check_before_use` finds the dead connections that a restarted server leaves in the pool; whoever repeats failed
    work anyhow does without.

    `is_patient` is for work that nobody waits for. Where people wait, it is False: each step ends within 2 s (4 s for
    a statement), and while the database does not answer, only one caller at a time waits for it; the others get
    sqlalchemy's TimeoutError at once.
    """
    circuit = None if is_patient else Circuit()
    engine = create_async_engine(
        settings.database_url,
        poolclass=_Pool,
        pool_size=pool_size or settings.database_pool_size,
        max_overflow=0,
        pool_timeout=10 if is_patient else 2,
        pool_pre_ping=check_before_use,
        hide_parameters=True,  # errors are logged, and parameters are people's data
        json_serializer=_dumps,
        json_deserializer=orjson.loads,
        connect_args={
            "async_creator_fn": _connector(circuit),
            "timeout": 5 if is_patient else 2,
            "command_timeout": 30 if is_patient else 4,
            "server_settings": {
                "application_name": name,
                # A plan made while a table was empty scans it whole; ours are cheap to plan and must fit today's size.
                "plan_cache_mode": "force_custom_plan",
                # Ours look up some hundred rows by key, lately written ones: by the index, not through the whole table.
                "random_page_cost": "1.1",
                "jit": "off",
                # What a caller no longer waits for ends with its connection.
                "client_connection_check_interval": "2000",
            },
        },
    )
    if circuit is not None:
        _guard(engine, circuit)
    if check_before_use:
        _check_only_idle(engine)
    return engine


def _dumps(value: Any) -> str:
    return orjson.dumps(value).decode()


class _Pool(AsyncAdaptedQueuePool):
    """A pool that gives no connection while the circuit is shut."""

    circuit: Circuit | None = None

    def _do_get(self) -> ConnectionPoolEntry:
        if self.circuit is not None and not self.circuit.lets_pass():
            raise PoolTimeoutError("the database did not answer a moment ago")
        return super()._do_get()

    def recreate(self) -> _Pool:
        made = super().recreate()
        assert isinstance(made, _Pool)
        made.circuit = self.circuit
        return made


def _guard(engine: AsyncEngine, circuit: Circuit) -> None:
    pool = engine.sync_engine.pool
    assert isinstance(pool, _Pool)
    pool.circuit = circuit

    def taken(connection: Any, *_: Any) -> None:
        """After the check before use: it works."""
        circuit.worked()
        connection.driver_connection.taken_at = circuit.now()

    event.listen(engine.sync_engine, "checkout", taken)


def _check_only_idle(engine: AsyncEngine) -> None:
    dialect = engine.sync_engine.dialect
    check = dialect.do_ping

    def given_back(connection: Any, *_: Any) -> None:
        if connection is not None:  # it was found dead
            connection.driver_connection.given_back_at = time.monotonic()

    def check_idle(connection: Any) -> bool:
        is_fresh = time.monotonic() - connection.driver_connection.given_back_at < _FRESH_SECONDS
        return is_fresh or check(connection)

    event.listen(engine.sync_engine, "checkin", given_back)
    dialect.do_ping = check_idle  # type: ignore[method-assign, assignment]


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection that ends when a statement on it is given up, by timeout or by its caller.

    asyncpg would ask the server to cancel the statement, on a connection of its own, and everything that is to happen
    next on this one (the rollback, its closing) waits for that. A server that hangs never answers, so a caller who was
    to wait 4 s would wait for 12.
    """

    circuit: Circuit | None = None
    #: When it was last taken from the pool, and last given back.
    taken_at = given_back_at = float("-inf")

    async def _cancel(self, waiter: asyncio.Future[None], cancel_waiter: asyncio.Future[None] | None = None) -> None:
        try:
            if self.circuit is not None:
                self.circuit.failed(self.taken_at)
            self.terminate()
        finally:
            self._cancellations.discard(asyncio.current_task())
            if not waiter.done():
                waiter.set_result(None)


def _connector(circuit: Circuit | None) -> Any:
    async def connect(*arguments: Any, **options: Any) -> asyncpg.Connection:
        began = circuit.now() if circuit is not None else 0.0
        try:
            connection = await asyncpg.connect(*arguments, connection_class=_Connection, **options)
        except BaseException:
            if circuit is not None:
                circuit.failed(began)
            raise
        connection.circuit = circuit
        _notice_silence(connection)
        return connection

    return connect


def _notice_silence(connection: asyncpg.Connection) -> None:
    """Where the platform has such options; Linux has all."""
    opened: socket.socket = connection._transport.get_extra_info("socket")
    if opened.family not in (socket.AF_INET, socket.AF_INET6):
        return
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {**_KEEPALIVE, "TCP_USER_TIMEOUT": _SILENCE // timedelta(milliseconds=1)}
    for name, value in options.items():
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
