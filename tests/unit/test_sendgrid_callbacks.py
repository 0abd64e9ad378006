"""What SendGrid signs is believed, and each of its events means one thing."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from models.enums import Channel, EventKind
from models.errors import Refused
from models.provider_events import ProviderEvent
from models.requests import parse
from models.settings import Settings
from streams.providers.callbacks import Callback, NotVerified, Stale
from streams.providers.sendgrid_callbacks import SendGridCallbacks
from tests.fixtures.webhooks import CASES, KEYS, sendgrid_headers

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
SIGNATURE = "x-twilio-email-event-webhook-signature"
TIMESTAMP = "x-twilio-email-event-webhook-timestamp"


def settings(key: str | None = KEYS["sendgrid_public_key"], **more: Any) -> Settings:
    return Settings(database_url="postgresql://nobody@127.0.0.1:9/none", sendgrid_webhook_public_key=key, **more)


def signed(body: bytes, *, at: datetime = NOW, received_at: datetime = NOW) -> Callback:
    headers = {name.lower(): value for name, value in sendgrid_headers(body, at=at.timestamp()).items()}
    return Callback(urls=(), headers=headers, body=body, received_at=received_at)


def element(**fields: Any) -> dict[str, Any]:
    return {
        "email": "ada@example.com",
        "timestamp": int(NOW.timestamp()) - 60,
        "event": "delivered",
        "sg_event_id": "e-1",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        **fields,
    }


async def parsed(*elements: Any) -> list[ProviderEvent]:
    return await SendGridCallbacks(settings()).parse_events(signed(json.dumps(elements).encode()))


async def test_the_vendors_own_vector_verifies() -> None:
    case = CASES["sg-vendor-vector"]
    headers = {SIGNATURE: case["signature"], TIMESTAMP: case["timestamp"]}
    at = datetime.fromtimestamp(int(case["timestamp"]), UTC)
    callback = Callback(urls=(), headers=headers, body=case["body"].encode(), received_at=at)
    source = SendGridCallbacks(settings(case["public_key"]))
    await source.verify(callback)
    (event,) = await source.parse_events(callback)
    assert (event.kind, event.reason) == (EventKind.FAILED, "dropped: bounced address")
    assert event.provider_message_id == "LRzXl_NHStOGhQ4kofSm_A"
    with pytest.raises(NotVerified):
        await source.verify(replace(callback, body=callback.body.rstrip()))


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {SIGNATURE: "%%%"},
        {SIGNATURE: ""},
        {SIGNATURE: "é"},
        {SIGNATURE: "AAAA"},
        {SIGNATURE: "MEUCIQD67l3B7smWqaWRM24VIk4ZNx=="},
        {TIMESTAMP: ""},
        {TIMESTAMP: "now"},
        {TIMESTAMP: "٣"},
        {TIMESTAMP: "9" * 400},
        {TIMESTAMP: "1"},
    ],
)
async def test_what_is_not_signed_is_not_believed(headers: dict[str, str]) -> None:
    good = signed(b"[]")
    changed = {**good.headers, **headers} if headers else {}
    with pytest.raises(NotVerified):
        await SendGridCallbacks(settings()).verify(replace(good, headers=changed))


async def test_the_time_is_signed_too() -> None:
    source = SendGridCallbacks(settings(webhook_tolerance_seconds=600))
    for late in (0, 599, -299):
        await source.verify(signed(b"[]", received_at=NOW + timedelta(seconds=late)))
    for late in (602, -302, 10**8):
        with pytest.raises(Stale):
            await source.verify(signed(b"[]", received_at=NOW + timedelta(seconds=late)))


@pytest.mark.parametrize("key", ["", None])
def test_without_a_key_there_is_no_source(key: str | None) -> None:
    with pytest.raises(Refused, match="SENDGRID_WEBHOOK_PUBLIC_KEY: is not set"):
        SendGridCallbacks(settings(key))


@pytest.mark.parametrize("key", ["x", "AAAA", KEYS["sendgrid_signing_key_for_tests_pkcs8_der_base64"]])
def test_a_wrong_key_is_named_and_not_shown(key: str) -> None:
    with pytest.raises(Refused) as refused:
        SendGridCallbacks(settings(key))
    assert refused.value.field == "SENDGRID_WEBHOOK_PUBLIC_KEY"
    assert len(key) < 5 or key not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "kind", "more"),
    [
        ({"event": "processed"}, EventKind.ACCEPTED, {}),
        ({"event": "deferred", "attempt": "5"}, EventKind.DEFERRED, {"attempt": None}),
        ({"event": "delivered", "attempt": "2", "generation": "0"}, EventKind.DELIVERED, {"attempt": 2}),
        ({"event": "open", "sg_machine_open": False}, EventKind.OPENED, {}),
        ({"event": "open", "sg_machine_open": True}, EventKind.DELIVERED, {}),
        ({"event": "click", "url": "https://example.com/secret"}, EventKind.CLICKED, {}),
        ({"event": "bounce", "type": "bounce", "status": "5.1.1"}, EventKind.BOUNCED, {"is_permanent": True}),
        ({"event": "bounce", "type": "blocked", "status": "5.7.1"}, EventKind.BOUNCED, {"is_permanent": False}),
        ({"event": "bounce", "type": "bounce", "status": "4.2.2"}, EventKind.BOUNCED, {"is_permanent": False}),
        ({"event": "bounce"}, EventKind.BOUNCED, {"is_permanent": True, "reason": None}),
        (
            {"event": "bounce", "bounce_classification": "Invalid Address"},
            EventKind.BOUNCED,
            {"reason": "Invalid Address"},
        ),
        ({"event": "dropped", "reason": "Unsubscribed Address"}, EventKind.FAILED, {"is_permanent": False}),
        ({"event": "dropped", "reason": "ada@example.com says no"}, EventKind.FAILED, {"reason": "dropped"}),
        ({"event": "spamreport"}, EventKind.COMPLAINED, {}),
        ({"event": "unsubscribe"}, EventKind.UNSUBSCRIBED, {"is_of_all": True}),
        ({"event": "group_unsubscribe", "asm_group_id": 10}, EventKind.UNSUBSCRIBED, {"is_of_all": False}),
        ({"event": "group_resubscribe", "asm_group_id": 10}, EventKind.RESUBSCRIBED, {"is_of_all": False}),
        ({"event": "account_status_change"}, EventKind.UNKNOWN, {}),
        ({"event": ["bounce"]}, EventKind.UNKNOWN, {}),
        ({}, EventKind.DELIVERED, {}),
    ],
)
async def test_each_event_means_one_thing(given: dict[str, Any], kind: EventKind, more: dict[str, Any]) -> None:
    (event,) = await parsed(element(**given))
    assert (event.kind, event.channel, event.provider) == (kind, Channel.EMAIL, "sendgrid")
    assert {name: getattr(event, name) for name in more} == more
    assert (event.event_id, event.address) == ("sendgrid:e-1", "ada@example.com")
    assert event.occurred_at == NOW - timedelta(seconds=60)


async def test_our_own_arguments_come_back() -> None:
    delivery_id, notification_id = uuid4(), uuid4()
    (event,) = await parsed(
        element(delivery_id=str(delivery_id), notification_id=str(notification_id), generation="3", attempt="2")
    )
    assert (event.delivery_id, event.notification_id) == (delivery_id, notification_id)
    assert (event.generation, event.attempt) == (3, 2)
    assert event.key == str(delivery_id).encode()
    assert parse(ProviderEvent, event.record_value()) == event


async def test_the_raw_event_holds_neither_content_nor_addresses() -> None:
    secret = "ada-secret@example.com"
    (event,) = await parsed(
        element(
            email=secret,
            reason=f"550 {secret} unknown",
            response=f"250 {secret}",
            url=f"https://example.com/?u={secret}",
            ip="192.0.2.1",
            useragent="Mozilla",
            category=["secret"],
            status=secret,
            bounce_classification=secret,
            sg_event_id="e-2",
            subject="secret",
            **{"smtp-id": f"<{secret}>", "type": secret},
        )
    )
    shown = json.dumps(event.raw) + str(event.reason)
    assert "secret" not in shown and "@" not in shown and "192" not in shown
    assert event.raw["event"] == "delivered"


ODD = [
    None,
    1,
    "text",
    [],
    [element()],
    {},
    element(event=None, sg_event_id=None),
    element(sg_event_id="x" * 10_000),
    element(sg_event_id="nul\x00"),
    element(timestamp="yesterday"),
    element(timestamp=-1),
    element(timestamp=1e300),
    element(timestamp=True),
    element(email={"a": 1}, sg_message_id=7, status=[5]),
    element(email="x" * 10_000),
    element(email="lone \ud800", sg_event_id="\ud800"),
    element(delivery_id="none", notification_id=5, attempt="-1", generation="99999"),
    element(asm_group_id=10**30),
    {"event": "open", "deep": json.loads("[" * 900 + "]" * 900)},
    element(extra=float("nan"), asm_group_id=float("inf")),
]


@pytest.mark.parametrize("odd", ODD, ids=range(len(ODD)))
async def test_one_odd_element_costs_the_others_nothing(odd: Any) -> None:
    with structlog.testing.capture_logs() as logs:
        events = await parsed(element(sg_event_id="before"), odd, element(sg_event_id="behind"))
    ids = [event.event_id for event in events]
    assert (ids[0], ids[-1]) == ("sendgrid:before", "sendgrid:behind")
    assert len(events) == (3 if isinstance(odd, dict) else 2)
    assert all(parse(ProviderEvent, event.record_value()).event_id == event.event_id for event in events)
    assert not [entry for entry in logs if "example.com" in str(entry)]
    if len(events) == 2:
        assert [entry["count"] for entry in logs] == [1]


async def test_without_an_id_of_its_own_a_repeat_is_known_by_its_bytes() -> None:
    first, again, other = await parsed(*(element(sg_event_id=None, n=n) for n in (1, 1, 2)))
    assert first.event_id == again.event_id != other.event_id


async def test_what_has_not_happened_yet_counts_as_now() -> None:
    (event,) = await parsed(element(timestamp=int(NOW.timestamp()) + 10**6))
    assert event.occurred_at == NOW


@pytest.mark.parametrize("body", [b"", b"not json", b"{}", b"1", b"[" * 100_000, b"\xff\xfe", b'"\\ud800"'])
async def test_what_is_no_batch_is_refused(body: bytes) -> None:
    with pytest.raises(Refused) as refused:
        await SendGridCallbacks(settings()).parse_events(signed(body))
    assert refused.value.field == "body"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(["event", "email", "timestamp", "sg_event_id", "sg_message_id", "type", "status", "reason"])


@given(st.lists(st.dictionaries(_NAMES, _JSON, max_size=8) | _JSON, max_size=4))
async def test_whatever_comes_is_read_or_left_out(elements: list[Any]) -> None:
    for event in await parsed(*elements):
        assert parse(ProviderEvent, event.record_value()).event_id == event.event_id
