"""What AWS's events become: every form of SES's and of SMS's, as its documentation shows them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from models.provider_events import ProviderEvent
from streams.providers.ses_events import ses_events
from streams.providers.sms_events import sms_events
from tests.contracts.deliveries import cases

SENT_AT = datetime.fromtimestamp(1790000000, UTC)
#: Of addresses, content and people: none may be kept in `raw` or `reason`.
SECRETS = ("@", "TEST-TOKEN", "192.0.2.1", "Mozilla", "+1425", "+1206", "user unknown", "my house")
READERS = {"ses": ses_events, "sns": sms_events}


def read(vendor: str, message: dict[str, Any], message_id: str = "sns-1") -> list[ProviderEvent]:
    return READERS[vendor](message, message_id=message_id, sent_at=SENT_AT)


def told(event: ProviderEvent, fields: dict[str, Any]) -> dict[str, Any]:
    values = {name: getattr(event, name) for name in fields}
    return {
        name: str(value) if isinstance(value, UUID) else value.isoformat() if isinstance(value, datetime) else value
        for name, value in values.items()
    }


ALL = [(vendor, case) for vendor in READERS for case in cases(f"{vendor}/events.json")]


@pytest.mark.parametrize(("vendor", "case"), ALL, ids=[f"{vendor}-{case['id']}" for vendor, case in ALL])
def test_case(vendor: str, case: dict[str, Any]) -> None:
    events = read(vendor, case["message"])
    assert [told(event, fields) for event, fields in zip(events, case["expect"], strict=True)] == case["expect"]
    for event in events:
        assert event.provider == vendor
        kept = json.dumps([event.raw, event.reason])
        assert not [secret for secret in SECRETS if secret in kept]
        assert not [secret for secret in SECRETS if secret in event.event_id]
        assert ProviderEvent.model_validate_json(event.record_value()) == event


def ses_case(name: str) -> dict[str, Any]:
    return next(case["message"] for case in cases("ses/events.json") if case["id"] == name)


def ids(name: str, message_id: str) -> set[str]:
    return {event.event_id for event in read("ses", ses_case(name), message_id)}


@pytest.mark.parametrize("name", ["bounce-permanent", "complaint", "delivery", "send", "reject"])
def test_what_happens_once_is_known_again_whoever_reports_it(name: str) -> None:
    assert ids(name, "sns-1") == ids(name, "sns-2")


@pytest.mark.parametrize("name", ["open", "click", "delay"])
def test_what_may_happen_again_is_another_event(name: str) -> None:
    assert ids(name, "sns-1") == ids(name, "sns-1")
    assert ids(name, "sns-1").isdisjoint(ids(name, "sns-2"))


def test_each_recipient_has_an_event_of_their_own() -> None:
    assert len(ids("delivery", "sns-1")) == 2


def test_two_kinds_about_one_mail_are_two_events() -> None:
    assert ids("delivery", "sns-1").isdisjoint(ids("send", "sns-1"))


def test_a_recipient_named_twice_is_one() -> None:
    message = ses_case("delivery")
    message["delivery"]["recipients"] *= 2
    assert len(read("ses", message)) == 2
