"""Taking callbacks in: who is asked, what is told, and what is remembered, with fakes on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import ClassVar
from uuid import uuid4

import orjson
import pytest
from structlog.testing import capture_logs

from models.enums import Channel, EventKind
from models.errors import Refused, Unavailable
from models.provider_events import ProviderEvent
from models.settings import Settings
from streams.callbacks import Callbacks, Recent, Taken
from streams.producer import TooLarge
from streams.providers.callbacks import Callback, CallbackSource, NotVerified, Stale
from streams.providers.sources import build_sources, source_names
from streams.records import Outgoing
from tests.fixtures.webhooks import KEYS

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CALLBACK = Callback(urls=(), headers={}, body=b"", received_at=NOW)


def event(known_as: str) -> ProviderEvent:
    return ProviderEvent(
        event_id=known_as, provider="fake", channel=Channel.EMAIL, kind=EventKind.DELIVERED, occurred_at=NOW
    )


class FakeSource(CallbackSource):
    """Tells what it is given, or raises it."""

    name: ClassVar[str] = "fake"

    def __init__(self, *told: ProviderEvent, verifies: Exception | None = None, reads: Exception | None = None) -> None:
        self.told = list(told)
        self.verifies, self.reads = verifies, reads
        self.is_open = False
        self.parsed = 0

    async def open(self) -> None:
        self.is_open = True

    async def close(self) -> None:
        self.is_open = False

    async def verify(self, callback: Callback) -> None:
        if self.verifies is not None:
            raise self.verifies

    async def parse_events(self, callback: Callback) -> list[ProviderEvent]:
        self.parsed += 1
        if self.reads is not None:
            raise self.reads
        return self.told


class FakeIntake:
    """Keeps what it is given; fails from the `fails_at`-th call on."""

    def __init__(self, fails_at: int = 10**9, error: Exception | None = None) -> None:
        self.calls: list[Sequence[Outgoing]] = []
        self.fails_at = fails_at
        self.error = error or Unavailable("kafka", "away")

    async def publish(self, records: Sequence[Outgoing]) -> bool:
        if len(self.calls) >= self.fails_at:
            raise self.error
        self.calls.append(records)
        return False

    @property
    def ids(self) -> list[str]:
        return [orjson.loads(record.value or b"")["event_id"] for records in self.calls for record in records]


async def test_each_event_is_told_once_in_order() -> None:
    intake = FakeIntake()
    callbacks = Callbacks({"fake": FakeSource(*map(event, "abacb"))}, publisher=intake)
    assert await callbacks.take("fake", CALLBACK) == Taken(events=3, repeats=2)
    assert intake.ids == ["a", "b", "c"]
    assert await callbacks.take("fake", CALLBACK) == Taken(events=0, repeats=5)
    assert intake.ids == ["a", "b", "c"]


async def test_only_what_is_durable_is_remembered() -> None:
    intake = FakeIntake(fails_at=1)
    source = FakeSource(*(event(str(number)) for number in range(1200)))
    callbacks = Callbacks({"fake": source}, publisher=intake)
    with pytest.raises(Unavailable):
        await callbacks.take("fake", CALLBACK)
    intake.fails_at = 10**9
    taken = await callbacks.take("fake", CALLBACK)
    assert (taken.events, taken.repeats) == (700, 500)
    assert intake.ids == [str(number) for number in range(1200)]


@pytest.mark.parametrize("error", [NotVerified("forged"), Stale("old"), Unavailable("sns", "no certificate")])
async def test_what_is_not_verified_is_not_read(error: Exception) -> None:
    source, intake = FakeSource(event("a"), verifies=error), FakeIntake()
    with pytest.raises(type(error)):
        await Callbacks({"fake": source}, publisher=intake).take("fake", CALLBACK)
    assert (source.parsed, intake.calls) == (0, [])


@pytest.mark.parametrize(
    "error", [ValueError("secret"), KeyError("secret"), TypeError("secret"), RecursionError("secret")]
)
async def test_what_nobody_foresaw_is_refused_without_its_words(error: Exception) -> None:
    """A 500 would be repeated for a day."""
    for source, raised in (
        (FakeSource(verifies=error), NotVerified),
        (FakeSource(reads=error), Refused),
    ):
        with capture_logs() as logs, pytest.raises(raised) as told:
            await Callbacks({"fake": source}, publisher=FakeIntake()).take("fake", CALLBACK)
        assert "secret" not in str(told.value) + str(logs)
        assert logs[0]["error"] == type(error).__name__


async def test_an_event_that_fits_no_record_is_refused() -> None:
    intake = FakeIntake(fails_at=0, error=TooLarge("provider.events", 10**7))
    with pytest.raises(Refused):
        await Callbacks({"fake": FakeSource(event("a"))}, publisher=intake).take("fake", CALLBACK)


async def test_sources_are_opened_and_closed() -> None:
    source = FakeSource()
    callbacks = Callbacks({"fake": source}, publisher=FakeIntake())
    await callbacks.open()
    assert source.is_open
    await callbacks.close()
    assert not source.is_open


def test_memory_is_bounded_in_time_and_number() -> None:
    now = [0.0]
    recent = Recent(seconds=10, most=3, clock=lambda: now[0])
    recent.add("abc")
    assert [known in recent for known in "abcd"] == [True, True, True, False]
    recent.add("a")
    recent.add("d")
    assert [known in recent for known in "abcd"] == [True, False, True, True]
    now[0] = 10.0
    assert not any(known in recent for known in "abcd")


def settings(**more: object) -> Settings:
    return Settings(database_url="postgresql://nobody@127.0.0.1:9/none", **more)  # type: ignore[arg-type]


def test_a_vendor_without_its_key_is_absent() -> None:
    assert build_sources(settings()) == {}
    assert list(build_sources(settings(sendgrid_webhook_public_key=KEYS["sendgrid_public_key"]))) == ["sendgrid"]
    twilio = settings(twilio_account_sid=KEYS["twilio_account_sid"], twilio_auth_token=uuid4().hex)
    assert list(build_sources(twilio)) == ["twilio"]
    assert sorted(build_sources(settings(sns_topic_arns=(KEYS["sns_topic_arn"],)))) == ["ses", "sns"]
    assert source_names() == ["sendgrid", "ses", "sns", "twilio"]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"sendgrid_webhook_public_key": "no key"}, "SENDGRID_WEBHOOK_PUBLIC_KEY"),
        ({"sns_topic_arns": ("no arn",)}, "SNS_TOPIC_ARNS"),
    ],
)
def test_a_wrong_setting_stops_the_start_by_its_name(wrong: dict[str, object], field: str) -> None:
    with pytest.raises(Refused) as refused:
        build_sources(settings(**wrong))
    assert refused.value.field == field
