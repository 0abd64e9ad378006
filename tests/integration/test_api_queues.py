"""`/queues`: the newest sample of all, and the history of one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from models.ids import rfc3339
from models.repositories import queue_metrics
from models.repositories.queue_metrics import QueueSample

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi

QUEUES = "/api/v1/queues"
NOW = datetime.now(UTC).replace(microsecond=123_456)


@pytest.fixture(scope="module")
async def sampled(api: RunningApi) -> RunningApi:
    """Ten minutes of one lane, one sample a minute; the newest one has the outbox too."""
    samples = [
        QueueSample(
            lane="send-email-high",
            sampled_at=NOW - timedelta(minutes=age),
            lag=age,
            in_total=9,
            out_total=8,
            out_per_second=None if age == 9 else 0.5,
            oldest_age_seconds=float(age),
            members=1,
        )
        for age in range(10)
    ]
    outbox = QueueSample(lane="outbox", sampled_at=NOW, lag=3, oldest_age_seconds=1.0)
    async with api.service.engine.begin() as connection:
        await queue_metrics.add(connection, [*samples, outbox])
    return api


async def test_the_newest_sample_of_all(sampled: RunningApi) -> None:
    answer = await sampled.admin.get(QUEUES)
    assert answer.status_code == 200
    lane, outbox = answer.json()["items"]
    assert lane == {
        "lane": "send-email-high",
        "topic": "notification.send.email.high",
        "sampled_at": rfc3339(NOW),
        "state": "idle",
        "lag": 0,
        "out_per_second": 0.5,
        "oldest_age_seconds": 0.0,
        "members": 1,
    }
    assert (outbox["lane"], outbox["state"], "topic" in outbox) == ("outbox", "flowing", False)


async def test_the_history_of_a_lane_page_by_page(sampled: RunningApi) -> None:
    ages, cursor = [], None
    since = rfc3339(NOW - timedelta(minutes=7, seconds=1))
    for _ in range(3):
        wanted = {"since": since, "limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await sampled.admin.get(f"{QUEUES}/send-email-high", params=wanted)).json()
        ages += [item["lag"] for item in page["items"]]
        cursor = page["next_cursor"]
    assert ages == list(range(8))
    assert cursor is None


async def test_a_history_without_since_is_that_of_the_last_hour(sampled: RunningApi) -> None:
    old = QueueSample(lane="contacts", sampled_at=NOW - timedelta(hours=2), lag=1)
    new = QueueSample(lane="contacts", sampled_at=NOW - timedelta(minutes=30), lag=2, members=0)
    async with sampled.service.engine.begin() as connection:
        await queue_metrics.add(connection, [old, new])
    items = (await sampled.admin.get(f"{QUEUES}/contacts")).json()["items"]
    assert [(item["lag"], item["state"]) for item in items] == [(2, "unattended")]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/nothing", 404),
        ("/contacts?since=yesterday", 422),
        ("/contacts?limit=0", 422),
        ("/contacts?cursor=nonsense", 422),
        ("/contacts?cursor=MQo=", 422),
        ("/contacts?cursor=MQotMQ==", 422),
        ("/contacts?cursor=OTk5OTk5OTk5OTk5OTk5OTkKOTk5OTk5OTk5OTk5OTk5OTk=", 200),
    ],
)
async def test_what_is_none_is_refused(sampled: RunningApi, path: str, status: int) -> None:
    assert (await sampled.admin.get(QUEUES + path)).status_code == status


async def test_no_samples_is_an_empty_list(api: RunningApi) -> None:
    async with api.service.engine.begin() as connection:
        await queue_metrics.thin_out(connection, now=datetime.now(UTC) + timedelta(days=400))
    assert (await api.admin.get(QUEUES)).json() == {"items": [], "next_cursor": None}
