"""What the results for a message's devices come to, and what follows from it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.changes import Attempt
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority, Status
from models.repositories.deliveries import Claim
from models.requests import Device
from models.settings import Settings
from streams.agents.deliveries import DeliveryStage
from streams.channels.fan_out import NO_LIVE_DEVICE, merged
from streams.domain.attempts import effects
from streams.providers.base import DeliveryResult

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SENT, RETRY, PERMANENT = Outcome.SENT, Outcome.RETRY, Outcome.PERMANENT
DEAD, BROKEN, AMBIGUOUS = Outcome.TARGET_DEAD, Outcome.BROKEN, Outcome.AMBIGUOUS


def delivery(devices: int, **fields: Any) -> Delivery:
    return Delivery(
        delivery_id=UUID(int=1),
        notification_id=UUID(int=2),
        user_id="u-1",
        channel=Channel.PUSH,
        category="general",
        devices=tuple(Device(platform="fcm", token=f"t{number}") for number in range(devices)),
        content={"title": "Hi", "body": "Hello"},
        created_at=NOW,
        **fields,
    )


def result(outcome: Outcome, **fields: Any) -> DeliveryResult:
    return DeliveryResult(outcome=outcome, provider="fcm", reason=str(outcome), **fields)


def attempt(of: Delivery, outcome: Outcome, **fields: Any) -> Attempt:
    return Attempt(
        delivery_id=of.delivery_id,
        generation=0,
        attempt=of.attempt,
        outcome=outcome,
        provider="fcm",
        provider_message_id=None,
        reason="r",
        finished_at=NOW,
        **{"retry_at": None, **fields},
    )


@pytest.mark.parametrize(
    ("outcomes", "outcome", "remaining", "reached", "is_try"),
    [
        ([SENT, SENT], SENT, 0b00, 2, True),
        ([SENT, DEAD], SENT, 0b00, 1, True),
        ([SENT, PERMANENT, DEAD], SENT, 0b000, 1, True),
        ([SENT, DEAD, RETRY], RETRY, 0b100, 1, True),
        ([RETRY, SENT, RETRY], RETRY, 0b101, 1, True),
        ([AMBIGUOUS, SENT], AMBIGUOUS, 0b01, 1, True),
        ([AMBIGUOUS, RETRY], AMBIGUOUS, 0b11, 0, True),
        ([DEAD, DEAD], DEAD, 0b00, 0, True),
        ([DEAD, PERMANENT], PERMANENT, 0b00, 0, True),
        ([SENT, BROKEN], RETRY, 0b10, 1, False),
        ([DEAD, BROKEN], RETRY, 0b10, 0, False),
        ([RETRY, BROKEN], RETRY, 0b11, 0, True),
    ],
)
def test_results_are_merged(
    outcomes: list[Outcome], outcome: Outcome, remaining: int, reached: int, is_try: bool
) -> None:
    merge = merged(delivery(len(outcomes)), [result(each) for each in outcomes])
    assert merge.fan_out is not None
    assert (merge.outcome, merge.fan_out.remaining, merge.fan_out.reached, merge.fan_out.is_try) == (
        outcome,
        remaining,
        reached,
        is_try,
    )


def test_where_nobody_could_be_asked_no_attempt_was_made() -> None:
    waits = [timedelta(seconds=3), timedelta(seconds=9)]
    merge = merged(delivery(2, reached=1), [result(BROKEN, retry_after=wait) for wait in waits])
    assert (merge.outcome, merge.retry_after, merge.fan_out) == (BROKEN, waits[1], None)


def test_one_device_says_it_all() -> None:
    for outcome in set(Outcome) - {DEAD}:
        only = result(outcome)
        assert merged(delivery(1), [only]) is only


def test_an_unknown_outcome_is_repeated_once_and_the_others_go_on() -> None:
    merge = merged(delivery(3, ambiguous=1), [result(AMBIGUOUS), result(RETRY), result(SENT)])
    assert merge.fan_out is not None
    assert (merge.outcome, merge.fan_out.remaining, merge.fan_out.reached) == (RETRY, 0b010, 1)
    alone = merged(delivery(2, ambiguous=1), [result(AMBIGUOUS), result(DEAD)])
    assert alone.outcome is AMBIGUOUS


def test_dead_devices_are_named_with_their_time() -> None:
    merge = merged(delivery(2), [result(DEAD, dead_since=NOW), result(DEAD)])
    assert merge.fan_out is not None
    assert [(dead.token, dead.dead_since) for dead in merge.fan_out.dead] == [("t0", NOW), ("t1", None)]
    assert merge.reason == NO_LIVE_DEVICE
    assert merged(delivery(1), [result(DEAD)]).reason == "target_dead"


def test_the_longest_wait_of_those_who_are_left_counts() -> None:
    waits = [
        result(SENT, retry_after=timedelta(hours=1)),
        result(RETRY, retry_after=timedelta(seconds=7)),
        result(RETRY),
    ]
    assert merged(delivery(3), waits).retry_after == timedelta(seconds=7)


def test_what_failed_is_told_of_what_was_sent() -> None:
    assert merged(delivery(3), [result(SENT), result(DEAD), result(PERMANENT)]).reason == "2 of 3 devices: permanent"
    assert merged(delivery(2), [DeliveryResult(outcome=SENT, provider="fcm")] * 2).reason is None


def test_the_next_attempt_is_for_the_devices_that_are_left() -> None:
    stored = attempt(delivery(3), RETRY, retry_at=NOW, remaining_devices=0b100, reached_devices=1)
    caused = effects(delivery(3, tries=1), stored)
    assert caused.retry is not None
    following, _ = caused.retry
    assert ([device.token for device in following.devices], following.reached) == (["t2"], 1)
    assert (following.attempt, following.tries, caused.change.status) == (2, 2, Status.RETRYING)


def test_a_broken_provider_burns_no_try_of_the_others() -> None:
    stored = attempt(delivery(2), BROKEN, retry_at=NOW, remaining_devices=0b10, reached_devices=1)
    retry = effects(delivery(2, tries=1), stored).retry
    assert retry is not None
    assert (retry[0].tries, retry[0].attempt, retry[0].reached) == (1, 2, 1)


@pytest.mark.parametrize("outcome", [RETRY, PERMANENT, DEAD, AMBIGUOUS])
def test_what_reached_a_device_once_was_sent_in_the_end(outcome: Outcome) -> None:
    before = effects(delivery(1, reached=1), attempt(delivery(1), outcome))
    now = effects(delivery(2), attempt(delivery(2), outcome, remaining_devices=0b10, reached_devices=1))
    never = effects(delivery(2), attempt(delivery(2), outcome, reached_devices=0))
    assert [caused.change.status for caused in (before, now, never)] == [Status.SENT, Status.SENT, Status.FAILED]
    assert (before.dead, now.dead) == (None, None)


@given(
    answers=st.lists(
        st.lists(st.sampled_from([SENT, RETRY, PERMANENT, DEAD, BROKEN, AMBIGUOUS]), min_size=1, max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_whatever_devices_answer_none_gets_it_twice_and_all_is_told_once(answers: list[list[Outcome]]) -> None:
    """Each device answers from a list of its own, its last word again and again."""
    engine: Any = SimpleNamespace(execution_options=lambda **_: None)
    publisher: Any = None
    settings = Settings(database_url="postgresql://none/none")
    stage = DeliveryStage(
        channel=Channel.PUSH, priority=Priority.NORMAL, engine=engine, publisher=publisher, settings=settings
    )
    said: dict[str, list[Outcome]] = {f"t{number}": list(each) for number, each in enumerate(answers)}
    asked = delivery(len(answers))
    taken: dict[str, int] = {}
    unknown: dict[str, int] = {}
    dead: list[str] = []
    caused = None
    for _ in range(60):
        results = []
        for device in asked.devices:
            left = said[device.token]
            outcome = left.pop(0) if len(left) > 1 else left[0]
            taken[device.token] = taken.get(device.token, 0) + (outcome is SENT)
            unknown[device.token] = unknown.get(device.token, 0) + (outcome is AMBIGUOUS)
            results.append(result(outcome))
        merge = merged(asked, results)
        if merge.outcome is BROKEN:
            continue  # no attempt was made: the same again
        claim = Claim(delivery_id=asked.delivery_id, generation=0, attempt=asked.attempt, won=True)
        stored = stage.attempt(asked, claim, merge)
        dead += [device.token for device in stored.dead_devices]
        caused = effects(asked, stored)
        if caused.retry is None:
            break
        asked = caused.retry[0]
        assert asked.devices, "an attempt for nobody"
        assert asked.tries <= settings.push_retry.max_attempts
    else:
        return  # waits for a provider that is broken for good
    assert caused is not None
    assert max(taken.values()) <= 1
    assert max(unknown.values()) <= 2, "at most one more send"
    assert len(dead) == len(set(dead))
    assert (caused.change.status is Status.SENT) == any(taken.values())
    assert (caused.dead is None) == (caused.change.status is Status.SENT)


def test_without_devices_nothing_is_stored_and_devices_stay() -> None:
    retry = effects(delivery(1), attempt(delivery(1), RETRY, retry_at=NOW)).retry
    assert retry is not None
    assert retry[0].devices == delivery(1).devices
