"""Which errors are waited out, which records are found guilty, and that nothing else is swallowed."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import asyncpg
import pytest
from aiokafka.errors import KafkaConnectionError, KafkaStorageError, KafkaTimeoutError, NotEnoughReplicasError
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import BusyLoadingError, OutOfMemoryError, ReadOnlyError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from models.errors import Conflict, Refused, Unavailable
from streams.errors import halved, is_passing, is_refusal, persistently, sqlstate


class Original(Exception):
    """As the driver's adapter has it: with a SQLSTATE, and the driver's own error for a cause."""

    def __init__(self, state: str | None = None, cause: BaseException | None = None) -> None:
        super().__init__("secret")
        self.sqlstate = state
        self.__cause__ = cause


def database(state: str | None, cause: BaseException | None = None) -> DBAPIError:
    return DBAPIError("SELECT 1", {}, Original(state, cause))


AWAY = ["08000", "08006", "40001", "40P01", "53300", "55P03", "57P01", "57P03", "58030"]
REFUSED = ["22001", "22021", "22P05", "23505", "23514", "54000"]
BROKEN = ["42601", "42P01", "42703", "0A000", "28P01", "3D000", "XX000"]


@pytest.mark.parametrize("state", AWAY)
def test_a_server_that_is_away_passes(state: str) -> None:
    assert is_passing(database(state))
    assert not is_refusal(database(state))
    assert sqlstate(database(state)) == state


@pytest.mark.parametrize("state", REFUSED)
def test_refused_data_does_not_pass(state: str) -> None:
    assert is_refusal(database(state))
    assert not is_passing(database(state))


@pytest.mark.parametrize("state", BROKEN)
def test_a_mistake_of_ours_is_neither(state: str) -> None:
    assert not is_refusal(database(state))
    assert not is_passing(database(state))


def test_what_the_driver_refuses_is_refused() -> None:
    assert is_refusal(database(None, asyncpg.DataError("secret")))
    assert not is_passing(database(None, asyncpg.DataError("secret")))


def test_a_lost_connection_without_a_state_passes() -> None:
    assert is_passing(database(None))
    assert is_passing(asyncpg.ConnectionDoesNotExistError("secret"))


@pytest.mark.parametrize(
    "error",
    [
        ConnectionRefusedError(),
        TimeoutError(),
        KafkaConnectionError(),
        KafkaTimeoutError(),
        RedisConnectionError(),
        PoolTimeoutError(),
        Unavailable("kafka", "away"),
        asyncpg.InterfaceError("closed"),
        asyncpg.DeadlockDetectedError("secret"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_servers_away(error: Exception) -> None:
    assert is_passing(error)
    assert not is_refusal(error)


@pytest.mark.parametrize(
    "error", [ValueError(), KeyError(), AssertionError(), Refused("a", "b"), Conflict("a", "b")], ids=repr
)
def test_mistakes_do_not_pass(error: Exception) -> None:
    assert not is_passing(error)
    assert not is_refusal(error)


class Work:
    """Fails as told, then works."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "done"


async def test_persistently_goes_on_until_the_server_is_back() -> None:
    work = Work(ConnectionRefusedError(), database("57P03"))
    assert await persistently(work, lane="tests") == "done"
    assert work.calls == 3


@pytest.mark.parametrize("error", [database("23505"), database("42P01"), ValueError("x")], ids=["23", "42", "ours"])
async def test_persistently_lets_other_errors_through_at_once(error: Exception) -> None:
    work = Work(error)
    with pytest.raises(type(error)):
        await persistently(work, lane="tests")
    assert work.calls == 1


async def test_persistently_can_be_ended() -> None:
    waiting = asyncio.create_task(persistently(Work(*[TimeoutError()] * 1000), lane="tests"))
    await asyncio.sleep(0.02)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


class Table:
    """Takes batches without the guilty, whole or not at all."""

    def __init__(self, guilty: set[int]) -> None:
        self.guilty = guilty
        self.taken: list[int] = []
        self.refused: list[int] = []
        self.calls = 0

    async def write(self, items: Sequence[int]) -> None:
        self.calls += 1
        if self.guilty & set(items):
            raise database("23514")
        self.taken += items

    async def refuse(self, item: int) -> None:
        self.refused.append(item)


@given(st.integers(0, 60), st.sets(st.integers(0, 59)))
def test_halving_finds_all_guilty_ones_and_keeps_the_order(count: int, guilty: set[int]) -> None:
    items = list(range(count))
    table = Table(guilty)
    asyncio.run(halved(items, table.write, table.refuse))
    assert table.taken == [item for item in items if item not in guilty]
    assert table.refused == [item for item in items if item in guilty]


async def test_one_guilty_of_many_costs_few_statements() -> None:
    table = Table({700})
    await halved(list(range(1024)), table.write, table.refuse)
    assert table.calls <= 2 * 10 + 1


async def test_halving_lets_other_errors_through() -> None:
    async def write(_: Sequence[int]) -> None:
        raise ConnectionResetError

    table = Table(set())
    with pytest.raises(ConnectionResetError):
        await halved([1, 2, 3], write, table.refuse)
    assert table.refused == []


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica."),
        BusyLoadingError("Valkey is loading the dataset in memory"),
        ResponseError("MISCONF Valkey is configured to save RDB snapshots, but it's currently unable to persist"),
        KafkaStorageError(),
        NotEnoughReplicasError(),
        database("53100"),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_full_disk_or_memory_passes(error: Exception) -> None:
    assert is_passing(error)
    assert not is_refusal(error)


def test_a_wrong_command_does_not_pass() -> None:
    assert not is_passing(ResponseError("WRONGTYPE Operation against a key holding the wrong kind of value"))
