"""The guard: counts what was sent and what came back, warns, pauses a category's bulk, and lets it go again."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from models.repositories import bounce_rates
from models.repositories.bounce_rates import BounceRate
from models.settings import Settings
from streams.bounce_guard import BounceGuard
from streams.metrics import BOUNCE_RATE, CATEGORIES_PAUSED
from tests.fixtures.rows import Rows, some_rows
from tests.fixtures.stack import Databases

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi

SETTINGS = Settings(database_url="postgresql://none/none")


@pytest.fixture
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


def guard(rows: Rows) -> BounceGuard:
    return BounceGuard(engine=rows.engine, settings=SETTINGS, every=timedelta(), settled=timedelta())


async def send(rows: Rows, category: str, count: int, *, channel: str = "email", outcome: str | None = "sent") -> None:
    """What so many attempts leave behind."""
    await rows.execute(
        """
        WITH made AS (
            INSERT INTO notifications (id, user_id, client, category, priority, status, rank, created_at, updated_at)
            SELECT gen_random_uuid(), 'u-1', 'tests', :category, 'low', 'sent', 40, now(), now()
            FROM generate_series(1, :count) RETURNING id
        ), fanned_out AS (
            INSERT INTO notification_deliveries
                (delivery_id, notification_id, channel, status, rank, created_at, updated_at)
            SELECT gen_random_uuid(), id, :channel, 'sent', 40, now(), now() FROM made RETURNING delivery_id
        )
        INSERT INTO delivery_logs
            (delivery_id, generation, attempt, claimed_at, lease_until, source_partition, source_offset, outcome)
        SELECT delivery_id, 0, 1, clock_timestamp(), clock_timestamp(), 0, 0, :outcome FROM fanned_out
        """,
        category=category,
        count=count,
        channel=channel,
        outcome=outcome,
    )


async def come_back(rows: Rows, category: str, count: int, kind: str = "hard") -> None:
    await rows.execute(
        """
        INSERT INTO bounce_records (event_id, channel, address, kind, category, delivery_id, occurred_at)
        SELECT gen_random_uuid(), 'email', 'a' || n || '@example.com', :kind, :category, gen_random_uuid(),
               clock_timestamp()
        FROM generate_series(1, :count) AS n
        """,
        category=category,
        count=count,
        kind=kind,
    )


async def look(guard_: BounceGuard, category: str) -> BounceRate | None:
    return next((one for one in await guard_.look() if one.category == category), None)


def shown(gauge: Any, category: str) -> float | None:
    values = {s.labels["category"]: s.value for metric in gauge.collect() for s in metric.samples}
    return values.get(category)


async def test_each_attempt_is_counted_once_by_one_of_many(rows: Rows) -> None:
    await send(rows, "news", 300)
    await send(rows, "news", 20, outcome="target_dead")
    await send(rows, "news", 50, outcome="retry")
    await send(rows, "news", 50, outcome=None)
    await send(rows, "news", 40, channel="sms")
    await asyncio.gather(*(guard(rows).look() for _ in range(8)))
    await send(rows, "news", 80)
    await asyncio.gather(*(guard(rows).look() for _ in range(8)))
    one = await look(guard(rows), "news")
    assert one is not None
    assert one.sent == 400


async def test_attempts_that_may_have_no_outcome_yet_wait(rows: Rows) -> None:
    patient = BounceGuard(engine=rows.engine, settings=SETTINGS, every=timedelta(), settled=timedelta(seconds=30))
    await send(rows, "news", 10)
    assert await patient.look() == []
    one = await look(guard(rows), "news")
    assert one is not None
    assert one.sent == 10


@pytest.mark.parametrize(
    ("sent", "bounced", "soft", "warned", "paused"),
    [
        (1000, 49, 500, False, False),
        (1000, 50, 0, True, False),
        (1000, 99, 0, True, False),
        (1000, 100, 0, True, True),
        (999, 999, 0, False, False),
        (2000, 100, 0, True, False),
    ],
)
async def test_it_warns_at_5_and_pauses_at_10_percent_of_a_thousand(
    rows: Rows, sent: int, bounced: int, soft: int, warned: bool, paused: bool
) -> None:
    await send(rows, "news", sent)
    await send(rows, "tips", 2000)
    await come_back(rows, "news", bounced)
    await come_back(rows, "news", soft, "soft")
    one = guard(rows)
    with capture_logs() as logs:
        for _ in range(3):
            await one.look()
    events = [(entry["event"], entry["category"]) for entry in logs]
    expected = [("many e-mails come back", "news")] if warned else []
    expected += [("bulk of a category is paused", "news")] if paused else []
    assert events == expected, "each is told once"
    assert shown(BOUNCE_RATE, "news") == (bounced / sent if warned else None)
    assert shown(CATEGORIES_PAUSED, "news") == (1 if paused else None)
    async with rows.engine.connect() as connection:
        found = await bounce_rates.pauses(connection)
    assert list(found) == (["news"] if paused else [])


async def test_only_the_window_counts(rows: Rows) -> None:
    await send(rows, "news", 1000)
    await come_back(rows, "news", 200)
    await rows.execute("UPDATE bounce_records SET occurred_at = occurred_at - interval '25 hours'")
    one = await look(guard(rows), "news")
    assert one is not None
    assert (one.sent, one.bounced) == (1000, 0)
    await send(rows, "tips", 1)
    await guard(rows).look()
    await rows.execute(
        "UPDATE category_sends SET counted_at = counted_at - interval '25 hours' WHERE category = 'news'"
    )
    assert await look(guard(rows), "news") is None


async def test_a_pause_is_shown_for_as_long_as_it_lasts(rows: Rows) -> None:
    found = BounceRate(category="news", sent=1000, bounced=100, soft=0, is_paused=False)
    async with rows.engine.begin() as connection:
        await bounce_rates.pause(connection, found)
    await send(rows, "tips", 1)
    one = await look(guard(rows), "news")
    assert one == BounceRate(category="news", sent=0, bounced=0, soft=0, is_paused=True)
    assert shown(CATEGORIES_PAUSED, "news") == 1


async def test_after_a_resumption_it_counts_anew(rows: Rows) -> None:
    await send(rows, "news", 1000)
    await come_back(rows, "news", 100)
    one = guard(rows)
    await one.look()
    async with rows.engine.begin() as connection:
        [ended] = await bounce_rates.resume(connection, "news", who="root")
        assert await bounce_rates.resume(connection, "news", who="root") == []
    assert (ended.sent, ended.bounced) == (1000, 100)
    await one.look()
    async with rows.engine.connect() as connection:
        assert await bounce_rates.pauses(connection) == {}
    await send(rows, "news", 1000)
    await come_back(rows, "news", 150)
    await one.look()
    async with rows.engine.connect() as connection:
        [again] = (await bounce_rates.pauses(connection))["news"]
    assert (again.sent, again.bounced) == (1000, 150)


async def test_operators_see_and_end_a_pause(api: RunningApi) -> None:
    category = f"c-{uuid.uuid4().hex[:8]}"
    created = await api.admin.put(f"/api/v1/categories/{category}", json={"transactional": False})
    assert created.status_code == 200, created.text
    found = BounceRate(category=category, sent=1200, bounced=130, soft=0, is_paused=False)
    async with api.service.engine.begin() as connection:
        assert await bounce_rates.pause(connection, found)
        assert not await bounce_rates.pause(connection, found)
    shown_ = (await api.sender.get(f"/api/v1/categories/{category}")).json()["paused"]
    assert [(one["channel"], one["sent"], one["bounced"]) for one in shown_] == [("email", 1200, 130)]
    in_list = (await api.sender.get("/api/v1/categories", params={"limit": 200})).json()["items"]
    assert [one["key"] for one in in_list if "paused" in one] == [category]
    url = f"/api/v1/categories/{category}/resume"
    assert (await api.admin.post(url, json={})).status_code == 422
    for resumed in (True, False):
        answer = await api.admin.post(url, json={"reason": "the list was cleaned"})
        assert answer.json() == {"category": category, "resumed": resumed}
    assert "paused" not in (await api.sender.get(f"/api/v1/categories/{category}")).json()
    async with api.service.engine.connect() as connection:
        statement = text("SELECT who, reason, details FROM audit_log WHERE action = 'category_resumed'")
        [row] = (await connection.execute(statement)).all()
    assert (row.who, row.reason, row.details) == (
        "root",
        "the list was cleaned",
        {"category": category, "channels": ["email"]},
    )
