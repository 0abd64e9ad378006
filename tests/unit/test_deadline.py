"""What a deadline ends, what it leaves alone, and whose cancellation is whose."""

from __future__ import annotations

import asyncio
import time

import pytest

from streams.deadline import Deadline


async def test_what_is_in_time_is_left_alone() -> None:
    with Deadline(0.02):
        await asyncio.sleep(0)
    await asyncio.sleep(0.05)


async def test_what_is_late_ends_by_timeout() -> None:
    task = asyncio.current_task()
    assert task is not None
    with pytest.raises(TimeoutError), Deadline(0.02):
        await asyncio.sleep(3600)
    assert task.cancelling() == 0


async def test_an_error_of_the_body_stays_its_own() -> None:
    with pytest.raises(KeyError), Deadline(0.02):
        raise KeyError
    await asyncio.sleep(0.05)


async def test_paused_it_never_passes_and_restarted_it_gives_all_of_the_time_again() -> None:
    with pytest.raises(TimeoutError), Deadline(0.05) as deadline:
        deadline.pause()
        await asyncio.sleep(0.1)
        deadline.restart()
        began = time.monotonic()
        await asyncio.sleep(3600)
    assert time.monotonic() - began >= 0.045


async def test_put_off_before_it_rings_it_rings_later() -> None:
    began = time.monotonic()
    with pytest.raises(TimeoutError), Deadline(0.06) as deadline:
        await asyncio.sleep(0.03)
        deadline.restart()
        await asyncio.sleep(3600)
    assert time.monotonic() - began >= 0.085


async def test_once_left_it_is_over() -> None:
    with Deadline(0.02) as deadline:
        pass
    deadline.restart()
    await asyncio.sleep(0.05)


async def test_who_is_cancelled_by_somebody_else_is_cancelled() -> None:
    async def wait(deadline_seconds: float) -> None:
        with Deadline(deadline_seconds):
            await asyncio.sleep(3600)

    by_another = asyncio.create_task(wait(3600))
    await asyncio.sleep(0)
    by_another.cancel()
    with pytest.raises(asyncio.CancelledError):
        await by_another


async def test_the_inner_of_two_tells_only_of_itself() -> None:
    with Deadline(3600):
        with pytest.raises(TimeoutError), Deadline(0.02):
            await asyncio.sleep(3600)
        await asyncio.sleep(0.01)


async def test_the_outer_of_two_ends_both() -> None:
    inner_raised: list[type[BaseException]] = []
    with pytest.raises(TimeoutError), Deadline(0.02):
        try:
            with Deadline(3600):
                await asyncio.sleep(3600)
        except BaseException as error:
            inner_raised.append(type(error))
            raise
    assert inner_raised == [asyncio.CancelledError]
