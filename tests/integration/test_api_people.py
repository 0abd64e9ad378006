"""Contacts, devices, preferences, categories and the inbox over HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


USERS = "/api/v1/users"
INBOX = "/api/v1/inbox"


async def test_a_contact_is_replaced_as_a_whole(api: RunningApi) -> None:
    path = f"{USERS}/u-1/contact"
    assert (await api.user.get(path)).status_code == 404
    body = {"email": "Ada@EXAMPLE.com", "phone": "+49 151 12345678", "timezone": "Europe/Berlin", "name": "Ada"}
    put = await api.user.put(path, json=body)
    assert put.status_code == 200, put.text
    assert put.json() | {"updated_at": ""} == {
        "user_id": "u-1",
        "email": "Ada@example.com",
        "phone": "+4915112345678",
        "timezone": "Europe/Berlin",
        "name": "Ada",
        "updated_at": "",
    }
    assert (await api.user.get(path)).json() == put.json()
    await api.sender.put(path, json={"locale": "de"})
    found = (await api.user.get(path)).json()
    assert set(found) == {"user_id", "locale", "updated_at"}
    assert (await api.user.delete(path)).status_code == 204
    assert (await api.user.delete(path)).status_code == 404
    assert (await api.user.get(path)).status_code == 404
    rows = await api.service.fetch("SELECT email, locale, removed_at FROM contacts WHERE user_id = 'u-1'")
    assert rows[0].removed_at is not None and rows[0].locale is None


async def test_a_contact_that_is_put_wins_over_a_clock_that_runs_ahead(api: RunningApi) -> None:
    user = f"u-{uuid4().hex[:8]}"
    await api.sender.put(f"{USERS}/{user}/contact", json={"name": "first"})
    await api.service.execute(
        "UPDATE contacts SET updated_at = now() + interval '1 day' WHERE user_id = :user", user=user
    )
    await api.sender.put(f"{USERS}/{user}/contact", json={"name": "second"})
    rows = await api.service.fetch("SELECT name, updated_at > now() AS later FROM contacts WHERE user_id = :u", u=user)
    assert (rows[0].name, rows[0].later) == ("second", True)


async def test_a_device_belongs_to_the_last_who_registered_it(api: RunningApi) -> None:
    mine, theirs = f"{USERS}/u-1/devices", f"{USERS}/u-2/devices"
    token = {"platform": "fcm", "token": f"token-{uuid4().hex}"}
    first = (await api.user.put(mine, json=token)).json()
    again = (await api.user.put(mine, json=token | {"kind": "fid"})).json()
    assert again["device_id"] == first["device_id"]
    assert [one["kind"] for one in (await api.user.get(mine)).json()["items"]] == ["fid"]
    await api.client("other").put(theirs, json=token)
    assert (await api.user.get(mine)).json() == {"items": [], "next_cursor": None}
    assert (await api.user.delete(f"{mine}/{first['device_id']}")).status_code == 404
    assert (await api.client("other").delete(f"{theirs}/{first['device_id']}")).status_code == 204
    await api.user.put(mine, json=token)
    assert (await api.user.request("DELETE", mine, json=token)).status_code == 204
    assert (await api.user.request("DELETE", mine, json=token)).status_code == 404


async def test_the_oldest_device_makes_room(api: RunningApi) -> None:
    path = f"{USERS}/u-many/devices"
    for number in range(52):
        await api.sender.put(path, json={"platform": "apns", "token": f"t-{number}"})
    tokens = [one["token"] for one in (await api.sender.get(path)).json()["items"]]
    assert tokens == [f"t-{number}" for number in range(51, 1, -1)]


async def test_preferences_hold_only_what_was_chosen(api: RunningApi) -> None:
    path = f"{USERS}/u-1/preferences"
    assert (await api.user.get(path)).json() == {"user_id": "u-1", "channels": {}, "categories": {}}
    body = {
        "channels": {"sms": False},
        "categories": {"billing": {"email": False}},
        "quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin"},
    }
    put = (await api.user.put(path, json=body)).json()
    assert {name: put[name] for name in body} == body
    assert (await api.user.get(path)).json() == put
    assert "quiet_hours" not in (await api.user.put(path, json={})).json()


async def test_categories_are_created_replaced_and_listed(api: RunningApi) -> None:
    path, key = "/api/v1/categories", f"c-{uuid4().hex[:8]}"
    made = await api.admin.post(path, json={"key": key, "transactional": True, "default_channels": ["email"]})
    assert (made.status_code, made.json()["quiet_hours"]) == (201, "ignore")
    assert (await api.admin.post(path, json={"key": key})).json()["code"] == "already_exists"
    put = await api.admin.put(f"{path}/{key}", json={"priority": "low", "quiet_hours": "defer"})
    assert (put.json()["transactional"], put.json()["default_channels"], put.json()["priority"]) == (False, [], "low")
    assert (await api.sender.get(f"{path}/{key}")).json() == put.json()
    assert (await api.admin.put(f"{path}/{key}", json={"key": "other"})).status_code == 422
    assert (await api.sender.get(f"{path}/no-such")).status_code == 404
    keys, cursor = [], None
    while True:
        query = {"limit": "1"} | ({"cursor": cursor} if cursor else {})
        page = (await api.sender.get(path, params=query)).json()
        keys += [one["key"] for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert keys == sorted(keys) and {key, "general"} <= set(keys)


async def messages(api: RunningApi, user_id: str, count: int) -> None:
    await api.service.execute(
        """
        INSERT INTO inbox (id, notification_id, user_id, category, title, body, created_at)
        SELECT gen_random_uuid(), gen_random_uuid(), :user_id, 'general', 'title ' || n, 'body',
               now() + n * interval '1 ms'
        FROM generate_series(1, :count) AS n
        """,
        user_id=user_id,
        count=count,
    )


async def test_the_inbox_is_the_callers(api: RunningApi) -> None:
    await messages(api, "u-1", 5)
    await messages(api, "u-2", 2)
    page = (await api.user.get(INBOX, params={"limit": 3})).json()
    assert [one["title"] for one in page["items"]] == ["title 5", "title 4", "title 3"]
    rest = (await api.user.get(INBOX, params={"limit": 3, "cursor": page["next_cursor"]})).json()
    assert ([one["title"] for one in rest["items"]], rest["next_cursor"]) == (["title 2", "title 1"], None)
    assert (await api.user.get(f"{INBOX}/unread-count")).json() == {"unread": 5}

    first = page["items"][0]["id"]
    read = await api.user.post(f"{INBOX}/{first}/read")
    assert read.status_code == 200
    assert (await api.user.post(f"{INBOX}/{first}/read")).json() == read.json()
    assert (await api.client("other").post(f"{INBOX}/{first}/read")).status_code == 404
    unread = (await api.user.get(INBOX, params={"unread": "true"})).json()["items"]
    assert first not in {one["id"] for one in unread} and len(unread) == 4
    assert (await api.user.post(f"{INBOX}/read-all")).json() == {"marked": 4}
    assert (await api.user.get(f"{INBOX}/unread-count")).json() == {"unread": 0}
    assert (await api.client("other").get(f"{INBOX}/unread-count")).json() == {"unread": 2}


# -- bad input

CONTACT = {
    "email": "a@example.com",
    "phone": "+4915112345678",
    "name": "n",
    "locale": "de",
    "timezone": "Europe/Berlin",
}
DEVICE = {"platform": "fcm", "token": "t", "kind": "k"}
PREFERENCES = {
    "channels": {"sms": False},
    "categories": {"billing": {"email": False}},
    "quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin"},
}
CATEGORY = {"transactional": True, "default_channels": ["email"], "priority": "low", "quiet_hours": "drop"}
TEMPLATE = {"category": "c", "locale": "en", "variables": ["a"], "channels": {"sms": {"text": "t"}}, "draft": True}
BODIES: list[tuple[str, dict[str, Any]]] = [
    (f"{USERS}/u-1/contact", CONTACT),
    (f"{USERS}/u-1/devices", DEVICE),
    (f"{USERS}/u-1/preferences", PREFERENCES),
    ("/api/v1/categories/bad-inputs", CATEGORY),
    ("/api/v1/templates/bad-inputs", TEMPLATE),
]
ODD_VALUES = [None, 17, 1.5, [17], {"x": "y"}, "", "a\x00b", "\udc80", "x" * 300_000, "'; DROP TABLE contacts; --"]
#: Free text takes any text but this.
ODD_FOR_ALL = [None, 17, 1.5, [17], {"x": 1}, "a\x00b", "\udc80"]


@pytest.mark.parametrize(("path", "valid"), BODIES, ids=[path.rsplit("/", maxsplit=1)[-1] for path, _ in BODIES])
async def test_odd_values_in_any_field_are_refused(api: RunningApi, path: str, valid: dict[str, Any]) -> None:
    assert (await api.admin.put(path, json=valid)).is_success
    for name in valid:
        for value in ODD_VALUES:
            body = json.dumps(valid | {name: value}).encode()
            answer = await api.admin.put(path, content=body, headers={"Content-Type": "application/json"})
            assert answer.status_code < 500, (name, value)
            assert answer.elapsed.total_seconds() < 2
            if value in ODD_FOR_ALL:
                assert answer.status_code in (400, 422), (name, value)
    assert (await api.admin.put(path, json=valid | {"user_id": "x", "created_at": 1, "__class__": "x"})).is_success


WRONG: list[tuple[str, dict[str, Any], str]] = [
    ("contact", {"email": "a@b..example"}, "email"),
    ("contact", {"email": "a@example.com, b@example.com"}, "email"),
    ("contact", {"phone": "+1555' OR 1=1"}, "phone"),
    ("contact", {"timezone": "Mars/Olympus"}, "timezone"),
    ("devices", {"platform": "web", "token": "t"}, "platform"),
    ("preferences", {"channels": {"fax": True}}, "channels"),
    ("preferences", {"channels": {"sms": 1}}, "channels.sms"),
    ("preferences", {"channels": {"sms": "false"}}, "channels.sms"),
    ("preferences", {"categories": {"a b": {"sms": True}}}, "categories.a b"),
    ("preferences", {"quiet_hours": {"start": "25:00", "end": "07:00", "timezone": "UTC"}}, "quiet_hours.start"),
]


@pytest.mark.parametrize(("resource", "body", "field"), WRONG)
async def test_what_is_wrong_is_named(api: RunningApi, resource: str, body: dict[str, Any], field: str) -> None:
    answer = await api.user.put(f"{USERS}/u-1/{resource}", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith(field), answer.text


@pytest.mark.parametrize("user", ["%00", "%0d%0aX-A:1", "x" * 256, "..%2f..%2fadmin", "%E2%80%AE"])
async def test_odd_people_are_not_found(api: RunningApi, user: str) -> None:
    for resource in ("contact", "devices", "preferences"):
        answer = await api.admin.get(f"{USERS}/{user}/{resource}")
        assert answer.status_code == 404, answer.text
        assert answer.json()["code"] == "not_found"


async def test_writers_of_one_contact_follow_each_other(api: RunningApi) -> None:
    path = f"{USERS}/u-1/contact"
    answers = await asyncio.gather(*(api.user.put(path, json={"name": f"n{number}"}) for number in range(20)))
    assert {answer.status_code for answer in answers} == {200}
