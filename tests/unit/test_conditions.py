"""Who waits is woken when its condition holds."""

from __future__ import annotations

import asyncio

from streams.conditions import Conditions


async def test_it_returns_at_once_where_the_condition_holds() -> None:
    assert await Conditions().until(lambda: True)


async def test_each_waits_for_its_own() -> None:
    conditions, happened = Conditions(), set[str]()
    first = asyncio.create_task(conditions.until(lambda: "first" in happened))
    second = asyncio.create_task(conditions.until(lambda: "second" in happened))
    await asyncio.sleep(0)
    happened.add("second")
    conditions.notify()
    await second
    assert not first.done()
    happened.add("first")
    conditions.notify()
    assert await first


async def test_it_waits_only_so_long_and_forgets_who_is_gone() -> None:
    conditions = Conditions()
    assert not await conditions.until(lambda: False, seconds=0)
    assert not await conditions.until(lambda: False, seconds=0.01)
    gone = asyncio.create_task(conditions.until(lambda: False))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.gather(gone, return_exceptions=True)
    assert conditions._waiting == []


async def test_a_condition_that_holds_twice_wakes_once() -> None:
    conditions = Conditions()
    waiting = asyncio.create_task(conditions.until(lambda: bool(ready)))
    ready = ["yes"]
    await asyncio.sleep(0)
    conditions.notify()
    conditions.notify()
    assert await waiting
