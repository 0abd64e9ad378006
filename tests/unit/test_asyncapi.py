"""`docs/api/asyncapi.yaml` says what the code does: topics, fields, examples."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from typing import Any
from uuid import UUID

import jsonschema
import pytest
import yaml
from pydantic import BaseModel

from models.contact_record import ContactRecord
from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.events import FailedEvent, SentEvent, StatusEvent
from models.provider_events import ProviderEvent
from models.requests import NotificationRequest, parse
from streams.topics import CATALOGUE

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docs/api/asyncapi.yaml").read_text())
MESSAGES: dict[str, dict[str, Any]] = DOCUMENT["components"]["messages"]
SCHEMAS: dict[str, dict[str, Any]] = DOCUMENT["components"]["schemas"]
EXAMPLES = [
    pytest.param(message, example, id=f"{name}-{example['name']}")
    for name, message in MESSAGES.items()
    for example in message.get("examples", ())
]
NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)


def validator(schema: dict[str, Any]) -> jsonschema.Draft202012Validator:
    """Checks against a schema of the document, whose references point into the document."""
    return jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]})


def topics_of(channel: dict[str, Any]) -> set[str]:
    """The address with all values of its parameters."""
    address, parameters = channel["address"], channel.get("parameters", {})
    names = re.findall(r"{(\w+)}", address)
    assert set(names) == set(parameters)
    return {
        address.format(**dict(zip(names, values, strict=True)))
        for values in product(*(parameters[name]["enum"] for name in names))
    }


def test_every_topic_of_the_catalogue_is_described_and_no_other() -> None:
    described = [topic for channel in DOCUMENT["channels"].values() for topic in topics_of(channel)]
    assert sorted(described) == sorted(CATALOGUE)


def test_every_reference_leads_somewhere() -> None:
    references = re.findall(r"['\"]\$ref['\"]: ['\"](#/[^'\"]+)['\"]", str(DOCUMENT))
    assert len(references) > 50
    for reference in references:
        place: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]


@pytest.mark.parametrize(("message", "example"), EXAMPLES)
def test_examples_are_valid(message: dict[str, Any], example: dict[str, Any]) -> None:
    validator(message["payload"]).validate(example["payload"])
    if "headers" in example:
        validator(message["headers"]).validate(example["headers"])


def test_every_message_has_an_example() -> None:
    assert [name for name, message in MESSAGES.items() if not message.get("examples")] == []


@pytest.mark.parametrize(
    ("message", "model"),
    [
        ("request", NotificationRequest),
        ("contact", ContactRecord),
        ("delivery", Delivery),
        ("providerEvent", ProviderEvent),
    ],
)
def test_the_service_takes_the_examples(message: str, model: type[BaseModel]) -> None:
    for example in MESSAGES[message]["examples"]:
        parse(model, json.dumps(example["payload"]).encode())


@pytest.mark.parametrize(
    ("schema", "model"),
    [
        ("notificationRequest", NotificationRequest),
        ("contact", ContactRecord),
        ("delivery", Delivery),
        ("providerEvent", ProviderEvent),
    ],
)
def test_the_schemas_have_the_fields_of_the_models(schema: str, model: type[BaseModel]) -> None:
    assert set(SCHEMAS[schema]["properties"]) == set(model.model_fields)


@pytest.mark.parametrize(
    ("schema", "event"), [("sentEvent", SentEvent), ("failedEvent", FailedEvent), ("statusEvent", StatusEvent)]
)
def test_the_schemas_have_the_fields_of_the_events(schema: str, event: type[Any]) -> None:
    extra = {"reason"} if event is FailedEvent else set()
    assert set(SCHEMAS[schema]["properties"]) == set(event._fields) | extra


def test_what_the_service_writes_follows_the_schemas() -> None:
    common: dict[str, Any] = {"event_id": UUID(int=1), "notification_id": UUID(int=2), "timestamp": NOW}
    sent = SentEvent(
        **common,
        user_id="ada",
        channel=Channel.EMAIL,
        provider="smtp",
        provider_message_id=None,
        category="general",
        attempt=1,
        metadata={},
    )
    failed = FailedEvent(**common, user_id=None, channel=None, error=Outcome.PERMANENT, retry_count=0, metadata={})
    validator(SCHEMAS["sentEvent"]).validate(json.loads(sent.value()))
    validator(SCHEMAS["failedEvent"]).validate(json.loads(failed.value()))
    for status in Status:
        event = StatusEvent(**common, user_id="ada", status=status)
        validator(SCHEMAS["statusEvent"]).validate(json.loads(event.value()))


def test_a_wrong_request_is_refused_by_schema_and_service_alike() -> None:
    checks = validator(SCHEMAS["notificationRequest"])
    good = {"user_id": "ada", "template_id": "t"}
    assert checks.is_valid(good)
    for change in ({"user_id": None}, {"channel": "fax"}, {"content": {"text": "a"}}, {"send_at": "soon"}, {"id": "x"}):
        assert not checks.is_valid(good | change), change
