"""The names inside Faust and aiokafka that we reach for are still there, and do what they did."""

from __future__ import annotations

import asyncio

import faust
import pytest
from aiokafka.consumer import fetcher
from faust._cython import streams as compiled

from streams import lanes  # noqa: F401  importing it is what changes Faust
from streams.faust_pace import RECORDS_A_TURN
from streams.header_names import TolerantRecords


def test_faust_is_the_version_that_was_measured() -> None:
    assert faust.__version__ == "0.15.3"


def test_the_loop_gets_a_turn_once_in_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 0
    real = asyncio.sleep

    async def counted(delay: float) -> None:
        nonlocal turns
        turns += 1
        await real(delay)

    monkeypatch.setattr(asyncio, "sleep", counted)

    async def feed() -> None:
        for _ in range(10 * RECORDS_A_TURN):
            await compiled.sleep(0)

    asyncio.run(feed())
    assert turns == 10


def test_the_compiled_stream_asks_for_its_turn_by_that_name() -> None:
    assert "sleep" in vars(compiled)


def test_aiokafka_reads_batches_by_ours() -> None:
    assert fetcher.MemoryRecords is TolerantRecords
