"""A fetch that leaves partitions out comes back soon."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.consumer import consumer
from aiokafka.consumer.fetcher import Fetcher

import streams.lanes  # noqa: F401  whoever has lanes has short fetches
from streams.short_fetches import SHORT_WAIT_MS, ShortFetches

BUSY, QUIET = TopicPartition("a-topic", 0), TopicPartition("a-topic", 1)


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Answers how long a fetch would wait while these partitions have records that nobody has taken."""
    fetcher = object.__new__(ShortFetches)  # a whole one begins to fetch
    fetcher._long_wait_ms = 1_500
    monkeypatch.setattr(Fetcher, "_get_actions_per_node", lambda self, assignment: self._fetch_max_wait_ms)

    def waits(*untaken: TopicPartition) -> int:
        fetcher._records = dict.fromkeys(untaken)
        waited: int = fetcher._get_actions_per_node(SimpleNamespace(tps={BUSY, QUIET}))
        return waited

    return waits


def test_consumers_of_this_process_fetch_so() -> None:
    assert consumer.Fetcher is ShortFetches


def test_where_all_was_taken_a_fetch_may_wait_its_time(waits: Any) -> None:
    assert waits() == 1_500


def test_where_a_partition_is_left_out_it_waits_briefly_and_its_time_afterwards(waits: Any) -> None:
    assert waits(BUSY) == SHORT_WAIT_MS
    assert waits() == 1_500


def test_records_of_partitions_that_are_no_longer_ours_make_no_difference(waits: Any) -> None:
    assert waits(TopicPartition("a-topic", 2)) == 1_500
