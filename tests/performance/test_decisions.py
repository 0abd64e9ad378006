"""What deciding about a request and an attempt costs, without any server."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from models.audience import Category, Person
from models.changes import Attempt
from models.enums import Channel, Outcome, Status, SuppressionReason
from models.requests import NotificationRequest, parse
from models.settings import RetryPolicy
from streams.domain.attempts import effects
from streams.domain.planning import Planned, Surroundings, plan
from streams.domain.retry import RetryDecision, decide
from streams.domain.templates import Renderer
from streams.domain.unsubscribe import UnsubscribeLinks
from tests.performance.calls import mean_seconds
from tests.performance.test_render import DATA, EMAIL

ID = UUID("019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071")
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
RAW = orjson.dumps(
    {
        "id": str(ID),
        "user_id": "user-42",
        "channel": "email",
        "category": "orders",
        "recipient": {"email": "ada@example.com", "locale": "en-GB"},
        "content": EMAIL,
        "data": DATA,
        "metadata": {"campaign": "autumn"},
    }
)
REQUEST = parse(NotificationRequest, RAW)
#: Long, and beyond ASCII: plain ASCII has a shorter way through the checks.
LONG = orjson.dumps({"user_id": "user-42", "channel": "email", "content": {"html": "Grüße, " * 30_000}})
AROUND = Surroundings(
    person=Person(user_id="user-42", email="stored@example.com", channels={"sms": False}),
    category=Category(key="orders"),
    unsubscribed={("email", "eve@example.com", ""): {SuppressionReason.UNSUBSCRIBED}},
    templates=(),
    default_locale="en",
    renderer=Renderer(),
)


def _plan() -> list[Planned]:
    return plan(REQUEST, ID, AROUND, generation=0, created_at=NOW)


def _decide() -> RetryDecision:
    return decide(
        Outcome.RETRY,
        policy=RetryPolicy(),
        tries=2,
        ambiguous=0,
        retry_after=timedelta(seconds=20),
        now=NOW,
        random=lambda: 0.5,
    )


DELIVERY = _plan()[0].delivery
ATTEMPT = Attempt(
    delivery_id=ID,
    generation=0,
    attempt=1,
    outcome=Outcome.SENT,
    provider="sendgrid",
    provider_message_id="m-1",
    reason=None,
    retry_at=None,
    finished_at=NOW,
    takeovers=0,
)


def test_parse_of_a_request(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse, NotificationRequest, RAW).user_id == "user-42"


def test_parse_of_a_long_text_beyond_ascii(benchmark: BenchmarkFixture) -> None:
    assert benchmark(parse, NotificationRequest, LONG).user_id == "user-42"


def test_fingerprint_of_a_request(benchmark: BenchmarkFixture) -> None:
    assert len(benchmark(REQUEST.fingerprint)) == 32


def test_plan_of_an_email(benchmark: BenchmarkFixture) -> None:
    [planned] = benchmark(_plan)
    assert (planned.status, planned.delivery.channel) == (Status.QUEUED, Channel.EMAIL)


def test_plan_of_an_email_with_a_link_to_leave_by(benchmark: BenchmarkFixture) -> None:
    around = AROUND._replace(links=UnsubscribeLinks("a key", "https://comms.example.com"))
    [planned] = benchmark(lambda: plan(REQUEST, ID, around, generation=0, created_at=NOW))
    assert planned.delivery.unsubscribe_url is not None


def test_record_of_a_delivery(benchmark: BenchmarkFixture) -> None:
    assert b"Ada Lovelace" in benchmark(DELIVERY.record_value)


def test_decision_about_a_retry(benchmark: BenchmarkFixture) -> None:
    assert benchmark(_decide).retry_at == NOW + timedelta(seconds=20)


def test_value_of_a_status_event(benchmark: BenchmarkFixture) -> None:
    event = effects(DELIVERY, ATTEMPT).events[-1]
    assert b'"status":"sent"' in benchmark(event.value)


def test_effects_of_a_sent_attempt(benchmark: BenchmarkFixture) -> None:
    told = benchmark(effects, DELIVERY, ATTEMPT)
    assert [len(told.events), told.dead] == [2, None]


#: About ten times what they take on the machine of docs/performance.md: what trips these has changed its nature.
@pytest.mark.parametrize(
    ("work", "microseconds"),
    [
        (lambda: parse(NotificationRequest, RAW), 150),
        (lambda: parse(NotificationRequest, LONG), 4000),
        (REQUEST.fingerprint, 60),
        (_plan, 400),
        (_decide, 40),
        (lambda: effects(DELIVERY, ATTEMPT), 150),
    ],
    ids=["parse", "parse-long", "fingerprint", "plan", "decide", "effects"],
)
def test_costs_microseconds(work: Callable[[], object], microseconds: float) -> None:
    assert mean_seconds(work, enough=microseconds / 1e6) < microseconds / 1e6
