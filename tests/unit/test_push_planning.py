"""What becomes of a request for a push message before any device is asked."""

from __future__ import annotations

from typing import Any

import pytest

from models.audience import Template
from models.deliveries import Delivery
from models.enums import Channel, Status
from models.errors import Refused
from models.requests import Device, parse
from streams.domain.push import MAX_DEVICES, app_data, distinct
from tests.unit.test_planning import around, one, request

FCM, APNS = {"platform": "fcm", "token": "t1"}, {"platform": "apns", "token": "t2"}


def push(content: Any, *devices: dict[str, str], **options: Any) -> Any:
    wanted = {"push": options} if options else None
    return request(
        channel="push", content=content, options=wanted, recipient={"device_tokens": list(devices or (FCM,))}
    )


def test_text_is_rendered_and_options_travel() -> None:
    found = one(push({"title": "Hi {{ name }}", "body": "B"}, FCM, APNS, badge=1, data={"a": "b"}))
    assert found.value is not None
    sent = parse(Delivery, found.value)
    assert (sent.content, len(sent.devices)) == ({"title": "Hi Ada", "body": "B"}, 2)
    assert sent.options.push is not None
    assert (sent.options.push.badge, sent.options.push.data) == (1, {"a": "b"})


@pytest.mark.parametrize("content", [{}, {"action_url": "/orders/{{ name }}"}])
def test_data_alone_needs_no_text(content: dict[str, str]) -> None:
    found = one(push(content, data={"sync": "inbox"}))
    assert (found.status, found.reason) == (Status.QUEUED, None)
    assert found.delivery.content == ({"action_url": "/orders/Ada"} if content else {})


def test_without_text_and_data_there_is_nothing_to_send() -> None:
    with pytest.raises(Refused, match="at least one part"):
        push({}, badge=0)
    assert one(push({"action_url": "/x"}, badge=0)).status is Status.FAILED


def test_a_text_is_shown_although_there_is_data() -> None:
    found = one(push({"subject": "S", "text": "T"}, data={"a": "b"}))
    assert found.delivery.content == {"title": "S", "body": "T"}


@pytest.mark.parametrize(
    ("content", "data"),
    [({"title": "t", "body": "ä" * 2048}, {}), ({"title": "t", "body": "b"}, {"blob": "x" * 4000})],
)
@pytest.mark.parametrize("devices", [(FCM,), (APNS,), (FCM, APNS)])
def test_what_no_vendor_takes_is_sent_to_none(
    content: dict[str, str], data: dict[str, str], devices: tuple[dict[str, str], ...]
) -> None:
    found = one(push(content, *devices, data=data))
    assert (found.status, found.reason, found.value) == (Status.FAILED, "too_large", None)


@pytest.mark.parametrize("name", ["from", "aps", "google.c", "gcm.n"])
def test_reserved_names_are_refused_at_once(name: str) -> None:
    found = one(push({"title": "t", "body": "b"}, data={name: "x"}))
    assert (found.status, found.reason) == (Status.FAILED, "invalid options.push.data: has a name that is reserved")


def test_a_template_s_data_is_rendered_and_a_request_s_goes_before_it() -> None:
    parts = {"title": "T", "body": "B", "data.order": "{{ name }}", "data.screen": "orders"}
    template = Template(key="k", locale="en", version=1, channel=Channel.PUSH, parts=parts)
    asked = request(channel="push", content=None, template_id="k", options={"push": {"data": {"screen": "cart"}}})
    found = one(asked, around(templates=(template,)))
    assert found.status is Status.QUEUED
    data = app_data(found.delivery)
    assert (data["order"], data["screen"]) == ("Ada", "cart")


def test_no_device_gets_it_twice_and_no_more_than_a_person_has() -> None:
    twice = one(push({"title": "t", "body": "b"}, FCM, APNS, FCM))
    assert [device.token for device in twice.delivery.devices] == ["t1", "t2"]
    many = tuple(Device(platform="fcm", token=f"t{number}") for number in range(80))
    stored = around(person={"devices": many})
    assert len(one(request(channel="push"), stored).delivery.devices) == MAX_DEVICES
    assert distinct(many[:3]) == many[:3]


def test_the_kind_of_a_device_travels() -> None:
    found = one(push({"title": "t", "body": "b"}, {**FCM, "kind": "fid"}))
    assert found.value is not None
    assert parse(Delivery, found.value).devices == (Device(platform="fcm", token="t1", kind="fid"),)
