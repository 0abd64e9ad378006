"""Identifiers: the same for every repeat, another for everything else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from models.enums import Channel
from models.ids import delivery_id, event_id, fresh, from_idempotency_key, from_record, rfc3339

ONE = UUID(int=1)


def test_these_ids_never_change() -> None:
    """Rows of earlier versions are found by them."""
    assert str(from_idempotency_key("shop", "order-1")) == "1db424ce-1988-59f2-b41f-aa1028e2cb01"
    assert str(from_record("c", "notification.requests.low", 3, 42, 1)) == "e3b1eab9-2dd0-5057-8411-a1bb2dcd60d4"
    assert str(delivery_id(ONE, Channel.IN_APP)) == "e8cc5051-27bc-5e5d-af35-fc20d3436306"
    assert str(event_id(ONE, 0, 1, "sent")) == "4a2fd29a-ef37-5ff6-b835-eba505084d7b"


@given(st.text(), st.text(), st.text(), st.text())
def test_client_and_key_do_not_run_into_each_other(client: str, key: str, other_client: str, other_key: str) -> None:
    same = (client, key) == (other_client, other_key)
    assert (from_idempotency_key(client, key) == from_idempotency_key(other_client, other_key)) is same


def test_a_client_that_ends_where_another_ones_key_begins() -> None:
    assert from_idempotency_key("a", "b:c") != from_idempotency_key("a:b", "c")
    assert from_idempotency_key("1:a", "b") != from_idempotency_key("1", "a:b")


def test_each_part_of_a_records_place_counts() -> None:
    place = ("cluster", "topic", 1, 2, 3)
    others = [("other", "topic", 1, 2, 3), ("cluster", "other", 1, 2, 3), ("cluster", "topic", 9, 2, 3),
              ("cluster", "topic", 1, 9, 3), ("cluster", "topic", 1, 2, 9)]  # fmt: skip
    assert from_record(*place) == from_record(*place)
    assert len({from_record(*each) for each in [place, *others]}) == 6


def test_each_part_of_an_event_counts() -> None:
    events = [(ONE, 0, 1, "sent"), (UUID(int=2), 0, 1, "sent"), (ONE, 1, 1, "sent"), (ONE, 0, 2, "sent"),
              (ONE, 0, 1, "failed"), (ONE, 1, 0, "sent")]  # fmt: skip
    assert len({event_id(*each) for each in events}) == len(events)
    assert event_id(*events[0]) == event_id(*events[0])


def test_fresh_ids_sort_by_time() -> None:
    made = [fresh() for _ in range(2000)]
    assert len(set(made)) == 2000
    assert all(before < after for before, after in pairwise(made))
    assert {one.version for one in made} == {7}


def test_times_are_told_in_utc_with_milliseconds() -> None:
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 6_789, UTC)) == "2026-01-02T03:04:05.006Z"
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, 999_999, UTC)) == "2026-01-02T03:04:05.999Z"
    ahead = timezone(timedelta(hours=2))
    assert rfc3339(datetime(2026, 1, 2, 3, 4, 5, tzinfo=ahead)) == "2026-01-02T01:04:05.000Z"
