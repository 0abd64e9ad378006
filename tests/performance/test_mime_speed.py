"""What building a mail and a SendGrid call costs."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from models.deliveries import Delivery
from models.enums import Channel
from models.requests import EmailOptions, Options
from streams.domain.mime import build_mail
from streams.providers.sendgrid import payload
from tests.performance.calls import mean_seconds

FROM = "Acme <news@acme.example>"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
#: 0.5 KB of text, 2 KB of HTML, a subject that needs encoding, headers and tags.
DELIVERY = Delivery(
    delivery_id=UUID(int=1),
    notification_id=UUID(int=2),
    user_id="user-1",
    channel=Channel.EMAIL,
    category="orders",
    to="ada@example.com",
    content={"subject": "Your März invoice", "text": "Hello Ada,\n" * 45, "html": "<p>Hello Ada</p>\n" * 120},
    options=Options(email=EmailOptions(reply_to="help@acme.example", headers={"X-Order": "4711"}, tags=("invoice",))),
    created_at=NOW,
)


def _mail() -> bytes:
    return build_mail(DELIVERY, default_from=FROM, now=NOW).data


def _payload() -> bytes:
    return orjson.dumps(payload(DELIVERY, default_from=FROM))


def test_build_of_a_mail(benchmark: BenchmarkFixture) -> None:
    assert b"multipart/alternative" in benchmark(_mail)


def test_build_of_a_sendgrid_call(benchmark: BenchmarkFixture) -> None:
    assert b"personalizations" in benchmark(_payload)


@pytest.mark.parametrize(("work", "microseconds"), [(_mail, 400), (_payload, 600)], ids=["mail", "sendgrid"])
def test_costs_microseconds(work: Callable[[], object], microseconds: float) -> None:
    assert mean_seconds(work, enough=microseconds / 1e6) < microseconds / 1e6
