"""What a sample says about its queue, and what samples are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.repositories.queue_metrics import QueueSample
from streams.app import part_names
from streams.queue_reader import Reading
from streams.queue_sampler import _sample
from streams.queues import QUEUES, QueueState, state

NOW = datetime(2026, 1, 1, 12, 0, 5, tzinfo=UTC)


def test_there_is_a_queue_for_all_that_a_worker_reads() -> None:
    no_queues = {"bounce-guard", "queue-metrics", "replays"}
    assert set(QUEUES) == (set(part_names()) - no_queues) | {"dlq"}


@pytest.mark.parametrize(
    ("lane", "values", "expected"),
    [
        ("send-email-high", {"lag": 0, "members": 2}, QueueState.IDLE),
        ("send-email-high", {"lag": 0, "members": 0}, QueueState.UNATTENDED),
        ("send-email-high", {"lag": 7, "members": 0, "out_per_second": 0.0}, QueueState.UNATTENDED),
        ("send-email-high", {"lag": 7, "members": 1, "oldest_age_seconds": 1.0}, QueueState.FLOWING),
        (
            "send-email-high",
            {"lag": 7, "members": 1, "oldest_age_seconds": 9.0, "out_per_second": 0.0},
            QueueState.LATE,
        ),
        (
            "send-email-low",
            {"lag": 7, "members": 1, "oldest_age_seconds": 20.0, "out_per_second": 0.0},
            QueueState.HOLDING,
        ),
        (
            "send-email-low",
            {"lag": 7, "members": 1, "oldest_age_seconds": 20.0, "out_per_second": 0.2},
            QueueState.FLOWING,
        ),
        # The first sample knows no rate, and accuses nobody.
        ("send-email-low", {"lag": 7, "members": 1, "oldest_age_seconds": 20.0}, QueueState.FLOWING),
        (
            "delay-10m",
            {"lag": 7, "members": 1, "oldest_age_seconds": 500.0, "out_per_second": 0.0},
            QueueState.WAITING,
        ),
        (
            "delay-10m",
            {"lag": 7, "members": 1, "oldest_age_seconds": 700.0, "out_per_second": 0.0},
            QueueState.HOLDING,
        ),
        ("delay-10m", {"lag": 7, "members": 1, "oldest_age_seconds": 700.0, "out_per_second": 3.0}, QueueState.LATE),
        ("outbox", {"lag": 7, "oldest_age_seconds": 20.0, "out_per_second": 0.0}, QueueState.HOLDING),
        ("outbox", {"lag": 7, "oldest_age_seconds": 2.0}, QueueState.FLOWING),
        ("schedules", {"lag": 7}, QueueState.WAITING),
        ("schedules", {"lag": 7, "oldest_age_seconds": 30.0, "out_per_second": 5.0}, QueueState.LATE),
        ("dlq", {"lag": 7, "oldest_age_seconds": 1e6}, QueueState.WAITING),
        ("dlq", {"lag": 0}, QueueState.IDLE),
    ],
)
def test_a_sample_says_how_its_queue_is(lane: str, values: dict[str, Any], expected: QueueState) -> None:
    assert state(QueueSample(lane=lane, sampled_at=NOW, **values)) is expected


def reading(**values: Any) -> Reading:
    return Reading(**{"lag": 5, "in_total": 150, "out_total": 145, "oldest_at": None, "members": 1, **values})


def before(**values: Any) -> QueueSample:
    past = {"sampled_at": NOW - timedelta(seconds=5), "lag": 0, "in_total": 100, "out_total": 100, **values}
    return QueueSample(lane="contacts", **past)


def test_rates_are_what_came_and_went_since_the_sample_before() -> None:
    sample = _sample("contacts", reading(), before(), NOW)
    assert (sample.in_per_second, sample.out_per_second) == (10.0, 9.0)


@pytest.mark.parametrize(
    "past",
    [
        None,
        before(in_total=None, out_total=None),
        before(in_total=9_000, out_total=9_000),
        before(sampled_at=NOW - timedelta(hours=1)),
        before(sampled_at=NOW + timedelta(seconds=3)),
        before(sampled_at=NOW),
    ],
    ids=["first", "unknown", "topic made anew", "long ago", "clock went back", "same moment"],
)
def test_no_rate_is_made_up(past: QueueSample | None) -> None:
    sample = _sample("contacts", reading(), past, NOW)
    assert (sample.in_per_second, sample.out_per_second) == (None, None)


@pytest.mark.parametrize(
    ("found", "age"),
    [
        (reading(oldest_at=NOW - timedelta(seconds=7)), 7.0),
        (reading(oldest_at=NOW + timedelta(seconds=7)), 0.0),
        (reading(oldest_at=NOW - timedelta(seconds=7), lag=0), None),
        (reading(), None),
    ],
    ids=["waits", "not due yet", "empty", "unknown"],
)
def test_the_age_is_that_of_the_head(found: Reading, age: float | None) -> None:
    assert _sample("contacts", found, None, NOW).oldest_age_seconds == age


def test_one_sample_a_minute_is_kept() -> None:
    def kept(seconds_before: float) -> bool:
        past = before(sampled_at=NOW - timedelta(seconds=seconds_before))
        return _sample("contacts", reading(), past, NOW).is_minutely

    assert (kept(5.0), kept(5.1), kept(3600)) == (False, True, True)
