"""Twilio's callbacks: who may say it, and what it means."""

from __future__ import annotations

import base64
import hashlib
import json
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import pytest
from twilio.request_validator import RequestValidator

from models.enums import Channel, EventKind
from models.errors import Refused
from models.provider_events import ProviderEvent
from streams.providers.callbacks import Callback, NotVerified
from streams.providers.twilio_callbacks import TwilioCallbacks
from tests.contracts.deliveries import PAYLOADS, settings

_FILE = json.loads((PAYLOADS / "webhook_cases.json").read_text())
KEYS = _FILE["test_keys"]
CASES = {case["id"]: case for case in _FILE["cases"] if case["provider"] == "twilio"}
ORDINARY = [case for case in CASES.values() if case["kind"] != "vendor-vector"]
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
SID = "SM" + "a" * 32
ACCOUNT = KEYS["twilio_account_sid"]
TOKEN = KEYS["twilio_auth_token_TEST"]
DELIVERY = UUID("5f0c6f7e-2a3b-5c4d-8e9f-0a1b2c3d4e5f")
URL = f"https://notify.example.com/api/v1/webhooks/twilio?delivery_id={DELIVERY}&generation=1&attempt=2"
FORM = "application/x-www-form-urlencoded"


def source(**given: Any) -> TwilioCallbacks:
    return TwilioCallbacks(settings(**{"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, **given}))


def callback(body: bytes, signature: str, *urls: str, content_type: str = FORM) -> Callback:
    headers = {"content-type": content_type, "x-twilio-signature": signature}
    return Callback(urls=urls or (URL,), headers=headers, body=body, received_at=NOW)


def of_case(known_as: str) -> Callback:
    case = CASES[known_as]
    signature = case["headers"]["X-Twilio-Signature"]
    return callback(base64.b64decode(case["body_b64"]), signature, case["url"])


def posted(*urls: str, **fields: str) -> Callback:
    """A form of our account, signed for the first address."""
    form = {"AccountSid": ACCOUNT, "MessageSid": SID, **fields}
    return callback(urlencode(form).encode(), signed(urls[0] if urls else URL, form), *urls)


def signed(url: str, fields: dict[str, Any] | str, token: str = TOKEN) -> str:
    signature: str = RequestValidator(token).compute_signature(url, fields)
    return signature


async def only(given: Callback) -> ProviderEvent:
    [event] = await source().parse_events(given)
    return event


@pytest.mark.parametrize("case", ORDINARY, ids=lambda case: case["id"])
async def test_case_is_believed_or_not(case: dict[str, Any]) -> None:
    given = of_case(case["id"])
    if case["expect"] == "rejected":
        with pytest.raises(NotVerified):
            await source().verify(given)
    else:
        await source().verify(given)
        assert all("Body" not in event.raw for event in await source().parse_events(given))


async def test_the_vendor_s_vectors_verify_but_are_of_another_account() -> None:
    """They name no account: that far they come, and no further."""
    form, as_json = CASES["tw-vendor-1"], CASES["tw-vendor-2"]
    known = source(twilio_auth_token=form["token"])
    body = urlencode(form["params"]).encode()
    for given in (
        callback(body, form["signature"], form["url"]),
        callback(as_json["body"].encode(), as_json["signature"], as_json["url"], content_type="application/json"),
    ):
        with pytest.raises(NotVerified, match="another account"):
            await known.verify(given)
        with pytest.raises(NotVerified, match="signature does not match"):
            await source().verify(given)


@pytest.mark.parametrize(
    ("known_as", "kind", "reason"),
    [
        ("tw-order", EventKind.ACCEPTED, None),
        ("tw-ok-03", EventKind.DELIVERED, None),
        ("tw-ok-04", EventKind.FAILED, "30003"),
        ("tw-ok-05", EventKind.FAILED, "30005"),
        ("tw-ok-06", EventKind.FAILED, "30007"),
        ("tw-ok-08", EventKind.CANCELLED, None),
        ("tw-ok-09", EventKind.OPENED, None),
        ("tw-ok-10", EventKind.UNKNOWN, None),
    ],
)
async def test_what_a_status_means(known_as: str, kind: EventKind, reason: str | None) -> None:
    event = await only(of_case(known_as))
    assert (event.kind, event.reason, event.provider_message_id) == (kind, reason, SID)
    assert (event.provider, event.channel, event.occurred_at) == ("twilio", Channel.SMS, NOW)
    assert event.event_id == f"twilio:{SID}:{event.raw['MessageStatus']}"
    assert event.address is None


async def test_who_opted_out_is_told_of_beside_the_failure() -> None:
    failed, opted_out = await source().parse_events(of_case("tw-ok-07"))
    assert (failed.kind, failed.reason, failed.address) == (EventKind.FAILED, "21610", None)
    assert (opted_out.kind, opted_out.address, opted_out.is_of_all) == (EventKind.UNSUBSCRIBED, "+15005550006", True)
    assert opted_out.event_id == f"{failed.event_id}:optout"


@pytest.mark.parametrize("known_as", ["tw-optout-stopall50", "tw-optout-end51"])
async def test_stop_is_said_by_whom_the_message_is_from(known_as: str) -> None:
    event = await only(of_case(known_as))
    assert (event.kind, event.address, event.is_of_all) == (EventKind.UNSUBSCRIBED, "+15005550001", True)
    assert (event.provider_message_id, event.names_message) == (None, False)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("STOP", EventKind.UNSUBSCRIBED),
        ("  stop.\n", EventKind.UNSUBSCRIBED),
        ("Stop writing to me", EventKind.UNSUBSCRIBED),
        ("Stop All", EventKind.UNSUBSCRIBED),
        ("opt-out", EventKind.UNSUBSCRIBED),
        ("Opt out!", EventKind.UNSUBSCRIBED),
        ("unsubscribe", EventKind.UNSUBSCRIBED),
        ("revoke", EventKind.UNSUBSCRIBED),
        ("Cancel", EventKind.UNSUBSCRIBED),
        ("END", EventKind.UNSUBSCRIBED),
        ("“quit”", EventKind.UNSUBSCRIBED),
        ("START", EventKind.RESUBSCRIBED),
        ("yes", EventKind.RESUBSCRIBED),
        ("Unstop", EventKind.RESUBSCRIBED),
        ("end of June?", None),
        ("cancel my table for two", None),
        ("Yes I will come", None),
        ("please don't stop", None),
        ("stopping by at six", None),
        ("", None),
        ("👍", None),
    ],
)
async def test_words_without_twilio_s_own_reading(body: str, kind: EventKind | None) -> None:
    given = posted(SmsStatus="received", From="+4915112345678", To="+15005550006", Body=body)
    await source().verify(given)
    events = await source().parse_events(given)
    assert [event.kind for event in events] == ([] if kind is None else [kind])
    assert all(event.address == "+4915112345678" and body not in repr(event.raw) for event in events if body)


@pytest.mark.parametrize(
    ("told", "kind"), [("STOP", EventKind.UNSUBSCRIBED), ("START", EventKind.RESUBSCRIBED), ("HELP", None)]
)
async def test_twilio_s_own_reading_counts_first(told: str, kind: EventKind | None) -> None:
    given = posted(SmsStatus="received", From="+4915112345678", Body="ARRET", OptOutType=told)
    assert [event.kind for event in await source().parse_events(given)] == ([] if kind is None else [kind])


@pytest.mark.parametrize("sender", ["whatsapp:+4915112345678", "12345", "", "+1"])
async def test_stop_from_what_is_no_phone_number_has_no_effect(sender: str) -> None:
    assert await source().parse_events(posted(SmsStatus="received", From=sender, Body="STOP")) == []


async def test_the_delivery_is_what_the_address_names() -> None:
    event = await only(posted(MessageStatus="delivered"))
    assert (event.delivery_id, event.generation, event.attempt) == (DELIVERY, 1, 2)


@pytest.mark.parametrize(
    "query", ["", "?delivery_id=1&generation=x&attempt=0", "?delivery_id=&generation=-1", "?generation=99999"]
)
async def test_an_address_that_names_none_leaves_the_message_id(query: str) -> None:
    event = await only(posted(f"https://notify.example.com/api/v1/webhooks/twilio{query}", MessageStatus="sent"))
    assert (event.delivery_id, event.generation, event.attempt) == (None, None, None)
    assert event.provider_message_id == SID


async def test_nothing_personal_is_kept() -> None:
    personal = {"Body": "my secret", "From": "+4915112345678", "To": "+15005550006", "FromCity": "Ulm"}
    odd = {"MessageStatus": "sent", "ErrorMessage": "to +4915112345678", "RawDlrDoneDate": "not a word: ü"}
    event = await only(posted(**personal, **odd, NumSegments="2"))
    assert event.raw == {"MessageStatus": "sent", "NumSegments": "2"}


async def test_each_address_that_it_may_have_come_to_is_tried() -> None:
    elsewhere = "https://proxy.internal/api/v1/webhooks/twilio"
    given = posted(URL, MessageStatus="sent")
    await source().verify(Callback(urls=(elsewhere, URL), headers=given.headers, body=given.body, received_at=NOW))
    with_port = URL.replace("example.com", "example.com:443")
    form = {"AccountSid": ACCOUNT, "MessageSid": SID, "MessageStatus": "sent"}
    await source().verify(callback(urlencode(form).encode(), signed(with_port, form)))


async def test_a_json_body_is_believed_by_its_hash() -> None:
    body = json.dumps({"AccountSid": ACCOUNT, "MessageSid": SID, "MessageStatus": "delivered"}).encode()
    url = f"{URL}&bodySHA256={hashlib.sha256(body).hexdigest()}"
    given = callback(body, signed(url, {}), url, content_type="application/json; charset=utf-8")
    await source().verify(given)
    assert (await only(given)).kind is EventKind.DELIVERED
    other = body.replace(b"delivered", b"failed")
    for forged in (
        callback(other, signed(url, {}), url, content_type="application/json"),
        callback(body, signed(URL, {}), URL, content_type="application/json"),  # the address alone is signed
    ):
        with pytest.raises(NotVerified, match="signature does not match"):
            await source().verify(forged)


async def test_several_values_of_a_name_are_all_signed() -> None:
    fields = f"AccountSid={ACCOUNT}&MessageSid={SID}&MessageStatus=sent&Tag=b&Tag=a"
    text = "".join(f"{name}{value}" for name, value in sorted(pair.split("=") for pair in fields.split("&")))
    await source().verify(callback(fields.encode(), signed(URL + text, {})))
    with pytest.raises(NotVerified):
        await source().verify(callback(fields.replace("Tag=b&", "").encode(), signed(URL + text, {})))
    twice = {"AccountSid": ACCOUNT, "MessageSid": SID}
    body = f"{urlencode(twice)}&AccountSid=AC{'9' * 32}"
    text = "".join(f"{n}{v}" for n, v in sorted([*twice.items(), ("AccountSid", "AC" + "9" * 32)]))
    with pytest.raises(NotVerified, match="another account"):
        await source().verify(callback(body.encode(), signed(URL + text, {})))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff\xfe", FORM),
        (b"a=%ff", FORM),
        (b"&".join(b"a=1" for _ in range(2000)), FORM),
        (b"\xff", "application/json"),
        (b"[1]", "application/json"),
        (b"", FORM),
    ],
)
async def test_what_is_no_callback_is_not_believed(body: bytes, content_type: str) -> None:
    for url in (URL, f"{URL}&bodySHA256={hashlib.sha256(body).hexdigest()}", "https://host:99999/", "http://[::1"):
        with pytest.raises(NotVerified):
            await source().verify(callback(body, signed(url, {}), url, content_type=content_type))
    with pytest.raises(NotVerified, match="signature is missing"):
        await source().verify(Callback(urls=(URL,), headers={}, body=body, received_at=NOW))


async def test_what_tells_of_no_message_is_refused_by_name() -> None:
    for fields, field in (({"MessageSid": ""}, "MessageSid"), ({}, "MessageStatus")):
        with pytest.raises(Refused) as refused:
            await source().parse_events(posted(**fields))
        assert refused.value.field == field


@pytest.mark.parametrize("name", ["twilio_account_sid", "twilio_auth_token"])
def test_a_missing_setting_is_named(name: str) -> None:
    with pytest.raises(Refused, match=f"{name.upper()}: is not set"):
        source(**{name: None})
