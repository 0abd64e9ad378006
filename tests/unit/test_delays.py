"""Tiers, hops, and headers that make no sense."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.delay_line import ready_at
from streams.delays import BadDelay, delayed, due, onward, tier_for
from streams.records import Headers, Incoming, Outgoing
from streams.topics import TIERS

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
RECORD = Outgoing("notification.send.email.low", b"u", b"v", (("traceparent", b"t"),))


def arrived(record: Outgoing, at: datetime) -> Incoming:
    return Incoming(record.topic, 0, 0, int(at.timestamp() * 1000), record.key, record.value, record.headers)


@pytest.mark.parametrize(
    ("seconds", "tier"),
    [(0.2, "1s"), (1, "1s"), (4.9, "1s"), (5, "5s"), (119, "30s"), (120, "2m"), (3599, "10m"), (86400, "1h")],
)
def test_the_largest_tier_that_fits(seconds: float, tier: str) -> None:
    assert tier_for(timedelta(seconds=seconds)) == tier


def test_a_due_record_is_not_delayed() -> None:
    assert delayed(RECORD, NOW, now=NOW) is RECORD


def test_the_headers_go_and_come_back() -> None:
    waiting = delayed(RECORD, NOW + timedelta(seconds=7), now=NOW)
    assert waiting.topic == "notification.delay.5s"
    assert due(arrived(waiting, NOW), now=NOW) == (NOW + timedelta(seconds=7), RECORD.topic)
    back = onward(arrived(waiting, NOW), RECORD.topic, NOW, now=NOW)
    assert back == RECORD


@given(st.floats(min_value=0.001, max_value=32 * 86400))
def test_hops_end_at_the_due_time_never_early_and_hardly_late(seconds: float) -> None:
    due_at = NOW + timedelta(seconds=seconds)
    now, record, hops = NOW, delayed(RECORD, due_at, now=NOW), 0
    while record.topic != RECORD.topic:
        incoming = arrived(record, now)
        when, topic = due(incoming, now=now)
        wait = TIERS[record.topic.rsplit(".", 1)[1]]
        now = max(now, ready_at(now, when, wait, now=now))
        record = onward(incoming, topic, when, now=now)
        hops += 1
    assert now >= due_at
    assert now - due_at < timedelta(seconds=1)
    assert hops < 800


def test_a_record_from_the_future_holds_up_nobody() -> None:
    far = NOW + timedelta(days=3000)
    assert ready_at(far, NOW + timedelta(days=20), TIERS["5s"], now=NOW) == NOW


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("return-topic", b"notification.send.email.low"),),
        (("due-at", b"NaN"), ("return-topic", b"notification.send.email.low")),
        (("due-at", b"9999-12-31T23:59:59Z"), ("return-topic", b"notification.send.email.low")),
        (("due-at", b"2026-11-23T12:00:00"), ("return-topic", b"notification.send.email.low")),
        (("due-at", b"\xff"), ("return-topic", b"notification.send.email.low")),
        (("due-at", None), ("return-topic", None)),
        (("due-at", b"2026-11-23T12:00:00Z"), ("return-topic", b"__consumer_offsets")),
        (("due-at", b"2026-11-23T12:00:00Z"), ("return-topic", b"notification.delay.1s")),
    ],
)
def test_absurd_headers_are_for_the_dead_letters(headers: Headers) -> None:
    with pytest.raises(BadDelay):
        due(Incoming("notification.delay.1s", 0, 0, 0, b"k", b"v", headers), now=NOW)
