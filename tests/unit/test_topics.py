"""The catalogue of topics: all that the contract names, kept no longer than it says."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest

from models.enums import Channel, Priority
from models.requests import MAX_REQUEST_BYTES
from streams.topics import CATALOGUE, INTERNAL_BYTES, REQUEST_BYTES, TIERS, delay_topic, request_topic, send_topic

WEEK_MS = 7 * 24 * 3600 * 1000


def test_it_has_what_the_contract_names_and_nothing_else() -> None:
    expected = {f"notification.requests.{priority}" for priority in ("high", "normal", "low")}
    expected |= {
        f"notification.send.{channel}.{priority}"
        for channel in ("email", "sms", "push", "in_app")
        for priority in ("high", "normal", "low")
    }
    expected |= {f"notification.delay.{tier}" for tier in ("1s", "5s", "30s", "2m", "10m", "1h")}
    expected |= {f"notification.{name}" for name in ("dlq", "sent", "failed", "status")}
    expected |= {"conversation.message.sent", "provider.events", "user.contacts"}
    assert set(CATALOGUE) == expected


def test_the_names_that_are_made_are_in_it() -> None:
    made = {request_topic(priority) for priority in Priority} | {delay_topic(tier) for tier in TIERS}
    made |= {send_topic(channel, priority) for channel in Channel for priority in Priority}
    assert made <= CATALOGUE.keys()
    assert all(CATALOGUE[name].name == name for name in CATALOGUE)


@pytest.mark.parametrize("name", CATALOGUE)
def test_content_is_kept_a_week_at_most_and_contacts_until_replaced(name: str) -> None:
    settings = CATALOGUE[name].settings()
    if name == "user.contacts":
        assert settings["cleanup.policy"] == "compact"
        assert "retention.ms" not in settings
    else:
        assert settings["cleanup.policy"] == "delete"
        assert 0 < int(settings["retention.ms"]) <= WEEK_MS


def test_others_write_requests_and_contacts_only() -> None:
    assert {name for name, topic in CATALOGUE.items() if topic.public} == {
        "notification.requests.high",
        "notification.requests.normal",
        "notification.requests.low",
        "user.contacts",
    }


@pytest.mark.parametrize("name", CATALOGUE)
def test_sizes_leave_room_for_what_travels_with_a_value(name: str) -> None:
    most = int(CATALOGUE[name].settings()["max.message.bytes"])
    assert most == (REQUEST_BYTES if CATALOGUE[name].public else INTERNAL_BYTES)
    assert REQUEST_BYTES > MAX_REQUEST_BYTES
    assert INTERNAL_BYTES > 2 * 1024 * 1024


def test_a_dead_letter_fits_whatever_died() -> None:
    assert CATALOGUE["notification.dlq"].max_bytes >= max(topic.max_bytes for topic in CATALOGUE.values())


def test_tiers_are_named_for_their_wait_and_sorted() -> None:
    units = {"s": 1, "m": 60, "h": 3600}
    assert {name: timedelta(seconds=int(name[:-1]) * units[name[-1]]) for name in TIERS} == TIERS
    assert all(before < after for before, after in pairwise(TIERS.values()))
