"""What an attempt causes, and that a repeat causes the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid5

import orjson
import pytest

from models.changes import Attempt
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.requests import parse
from models.status import RANK
from streams.domain.attempts import effects

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
DELIVERY = Delivery(
    delivery_id=UUID(int=1),
    notification_id=UUID(int=2),
    user_id="u-1",
    channel=Channel.EMAIL,
    category="general",
    to="ada@example.com",
    content={"subject": "S", "text": "T"},
    created_at=AT,
)


def an_attempt(outcome: Outcome, **fields: object) -> Attempt:
    known = {
        "delivery_id": DELIVERY.delivery_id,
        "generation": 0,
        "attempt": 1,
        "outcome": outcome,
        "provider": "smtp",
        "provider_message_id": None,
        "reason": None,
        "retry_at": None,
        "finished_at": AT,
    }
    return Attempt(**{**known, **fields})  # type: ignore[arg-type]


def test_a_sent_attempt_tells_sent_and_status() -> None:
    caused = effects(DELIVERY, an_attempt(Outcome.SENT, provider_message_id="m"))
    assert (caused.change.status, caused.change.rank) == (Status.SENT, RANK[Status.SENT])
    told = [orjson.loads(event.value()) for event in caused.events]
    expected = str(uuid5(DELIVERY.delivery_id, "0/1/sent"))
    assert [event["event_id"] for event in told] == [expected, expected]
    assert (caused.retry, caused.dead) == (None, None)


def test_a_retry_carries_the_same_delivery_with_the_next_attempt() -> None:
    due_at = AT + timedelta(seconds=4)
    caused = effects(DELIVERY, an_attempt(Outcome.RETRY, retry_at=due_at, reason="busy"))
    assert caused.retry is not None
    following, when = caused.retry
    assert (following.attempt, following.tries, following.ambiguous, when) == (2, 1, 0, due_at)
    assert following.content == DELIVERY.content
    assert caused.change.status is Status.RETRYING


@pytest.mark.parametrize("outcome", [Outcome.RETRY, Outcome.PERMANENT, Outcome.TARGET_DEAD, Outcome.AMBIGUOUS])
def test_without_a_next_attempt_it_is_dead_and_failed(outcome: Outcome) -> None:
    caused = effects(DELIVERY, an_attempt(outcome, reason="550"))
    assert caused.change.status is Status.FAILED
    assert caused.dead == "550"


def test_what_may_have_been_sent_before_is_marked() -> None:
    assert effects(DELIVERY, an_attempt(Outcome.SENT, takeovers=1)).change.ambiguous
    assert effects(DELIVERY, an_attempt(Outcome.AMBIGUOUS, retry_at=AT)).change.ambiguous
    assert not effects(DELIVERY, an_attempt(Outcome.SENT)).change.ambiguous


@pytest.mark.parametrize("outcome", list(Outcome))
def test_a_repeat_is_the_same_byte_for_byte(outcome: Outcome) -> None:
    again = [effects(DELIVERY, an_attempt(outcome)) for _ in range(2)]
    first, second = ([event.value() for event in caused.events] for caused in again)
    assert first == second


def test_a_delivery_survives_its_record() -> None:
    assert parse(Delivery, DELIVERY.record_value()) == DELIVERY
    following = DELIVERY.next_attempt(tries=1, ambiguous=0)
    assert parse(Delivery, following.record_value()) == following
