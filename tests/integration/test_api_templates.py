"""Templates over HTTP: versions, publishing, preview; and every attack by create, preview and inline content."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


PATH = "/api/v1/templates"
ATTACKS = json.loads((Path(__file__).parents[1] / "payloads" / "template_attacks.json").read_text())
TEXT = {"sms": {"text": "Hello {{ name }}"}}


def fresh_key() -> str:
    return f"t-{uuid4().hex[:12]}"


async def create(api: RunningApi, key: str, **fields: Any) -> dict[str, Any]:
    answer = await api.admin.post(PATH, json={"key": key, "channels": TEXT} | fields)
    assert answer.status_code == 201, answer.text
    created: dict[str, Any] = answer.json()
    return created


async def send(api: RunningApi, key: str, **fields: Any) -> httpx.Response:
    request = a_request(template_id=key, channel="sms", **fields)
    request.pop("content")
    return await api.sender.post("/api/v1/notifications", json=request)


async def test_a_template_is_published_at_once_and_used(api: RunningApi) -> None:
    key = fresh_key()
    assert (await send(api, key)).json()["errors"][0]["field"] == "template_id"
    created = await create(api, key, category="orders")
    assert (created["version"], created["locale"], created["draft"]) == (1, "en", False)
    assert created["variables"] == ["name"]
    assert created["created_by"] == "root"
    assert (await send(api, key)).status_code == 202
    assert (await send(api, key, data={})).json()["errors"][0]["field"] == "data.name"
    without = a_request(template_id=key, channel="push")
    without.pop("content")
    refused = await api.sender.post("/api/v1/notifications", json=without)
    assert refused.json()["errors"] == [{"field": "template_id", "reason": "the template has no parts for push"}]


async def test_versions_are_kept_and_the_highest_published_one_counts(api: RunningApi) -> None:
    key = fresh_key()
    await create(api, key)
    assert (await api.admin.post(PATH, json={"key": key, "channels": TEXT})).status_code == 409
    second = {"channels": {"sms": {"text": "{{ second }}"}}}
    draft = await api.admin.put(f"{PATH}/{key}", json=second | {"draft": True})
    assert (draft.status_code, draft.json()["version"], draft.json()["published_at"]) == (200, 2, None)
    assert (await send(api, key)).status_code == 202
    published = await api.admin.post(f"{PATH}/{key}/publish")
    assert (published.status_code, published.json()["version"], published.json()["draft"]) == (200, 2, False)
    assert (await send(api, key)).json()["errors"][0]["field"] == "data.second"
    back = await api.admin.post(f"{PATH}/{key}/publish", json={"version": 1})
    assert (back.json()["version"], back.json()["channels"]) == (3, TEXT)
    assert (await send(api, key)).status_code == 202
    versions = (await api.sender.get(f"{PATH}/{key}/versions", params={"limit": 2})).json()
    assert [one["version"] for one in versions["items"]] == [3, 2]
    rest = await api.sender.get(f"{PATH}/{key}/versions", params={"limit": 2, "cursor": versions["next_cursor"]})
    assert [one["version"] for one in rest.json()["items"]] == [1]
    first = (await api.sender.get(f"{PATH}/{key}", params={"version": 1})).json()
    assert (first["version"], first["locales"]) == (1, ["en"])
    assert (await api.sender.get(f"{PATH}/{key}", params={"version": 9})).status_code == 404


async def test_locales_stand_side_by_side(api: RunningApi) -> None:
    key = fresh_key()
    await create(api, key)
    await create(api, key, locale="de", channels={"sms": {"text": "Hallo {{ vorname }}"}})
    found = (await api.sender.get(f"{PATH}/{key}", params={"locale": "de"})).json()
    assert (found["locale"], found["variables"], found["locales"]) == ("de", ["vorname"], ["de", "en"])
    german = await send(api, key, recipient={"phone": "+4915112345678", "locale": "de-AT"})
    assert german.json()["errors"][0]["field"] == "data.vorname"
    assert (await api.sender.get(f"{PATH}/{key}", params={"locale": "fr"})).status_code == 404


async def test_writers_at_once_make_one_version_each(api: RunningApi) -> None:
    key = fresh_key()
    answers = await asyncio.gather(*(api.admin.put(f"{PATH}/{key}", json={"channels": TEXT}) for _ in range(8)))
    assert sorted(answer.json()["version"] for answer in answers) == list(range(1, 9))
    assert sorted(answer.status_code for answer in answers) == [200] * 7 + [201]


async def test_lists_show_each_key_and_locale_once(api: RunningApi) -> None:
    prefix = fresh_key()
    for number in range(3):
        await create(api, f"{prefix}.{number}")
        await create(api, f"{prefix}.{number}", locale="de")
        await api.admin.put(f"{PATH}/{prefix}.{number}", json={"channels": TEXT})
    found, cursor = [], None
    while True:
        query = {"limit": "4"} | ({"cursor": cursor} if cursor else {})
        page = (await api.sender.get(PATH, params=query)).json()
        found += [(one["key"], one["locale"], one["version"]) for one in page["items"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    ours = [one for one in found if one[0].startswith(prefix)]
    assert ours == [(f"{prefix}.{n}", locale, v) for n in range(3) for locale, v in (("de", 1), ("en", 2))]


async def test_what_breaks_a_rule_is_named_part_by_part(api: RunningApi) -> None:
    channels = {
        "email": {"subject": "{{ ''.__class__ }}", "html": "{% include 'x' %}"},
        "in_app": {"title": "t", "body": "{{ 9 ** 9 }}"},
    }
    answer = await api.admin.post(PATH, json={"key": fresh_key(), "channels": channels})
    assert answer.status_code == 422
    fields = {error["field"] for error in answer.json()["errors"]}
    assert fields == {"channels.email.subject", "channels.email.html", "channels.in_app.body"}


NO_CHANNELS: list[dict[str, Any]] = [
    {},
    {"fax": {"text": "x"}},
    {"sms": {}},
    {"sms": None},
    {"sms": {"text": None}},
    {"email": {"subject": "s"}},
    {"email": {"subject": "s", "mjml": "<mjml>"}},
    {"email": {"subject": "s", "mjml": "<mjml></mjml>", "html": "<p>x</p>"}},
    {"push": {"title": "t", "body": "b", "data": {"a": 1}}},
    {"push": {"title": "t", "body": "b", "data": {"from": "b"}}},
    {"push": {"title": "t", "body": "b", "data": {"two words": "b"}}},
    {"push": {"title": "t", "body": "b", "data": {"a": "{{ 9 ** 9 }}"}}},
]


@pytest.mark.parametrize("channels", NO_CHANNELS)
async def test_channels_that_are_none_are_refused(api: RunningApi, channels: dict[str, Any]) -> None:
    answer = await api.admin.post(PATH, json={"key": fresh_key(), "channels": channels})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["field"].startswith("channels")


async def test_previews_render_and_name_what_is_missing(api: RunningApi) -> None:
    key = fresh_key()
    await create(api, key)
    shown = await api.sender.post(f"{PATH}/{key}/preview", json={"data": {"name": "<Ada>"}})
    assert shown.json() == {"channels": {"sms": {"text": "Hello <Ada>"}}}
    missing = await api.sender.post(f"{PATH}/{key}/preview", json={})
    assert missing.json()["errors"][0]["field"] == "data.name"
    unsaved = {"channels": {"email": {"subject": "s", "html": "<p>{{ name }}</p>"}}, "data": {"name": "<b>"}}
    for path in (f"{PATH}/preview", f"{PATH}/{key}/preview"):
        answer = await api.sender.post(path, json=unsaved)
        assert answer.json()["channels"]["email"]["html"] == "<p>&lt;b&gt;</p>"
    assert (await api.sender.post(f"{PATH}/{fresh_key()}/preview", json={})).status_code == 404


async def test_a_push_template_has_data_for_the_app(api: RunningApi) -> None:
    push = {"title": "Order", "body": "It is here", "data": {"order.id": "{{ order }}", "screen": "orders"}}
    created = await api.admin.post(PATH, json={"key": fresh_key(), "channels": {"push": push}})
    assert created.status_code == 201, created.text
    assert created.json()["channels"]["push"] == push
    assert created.json()["variables"] == ["order"]
    shown = await api.sender.post(f"{PATH}/{created.json()['key']}/preview", json={"data": {"order": "7"}})
    assert shown.json()["channels"]["push"] == {**push, "data": {"order.id": "7", "screen": "orders"}}


async def test_a_preview_shows_the_mail_that_would_be_sent(api: RunningApi) -> None:
    body = "<mj-section><mj-column><mj-text>{{ name }}</mj-text></mj-column></mj-section>"
    email = {"subject": "s", "mjml": f"<mjml><mj-body>{body}</mj-body></mjml>"}
    created = await api.admin.post(PATH, json={"key": fresh_key(), "locale": "ar", "channels": {"email": email}})
    assert created.status_code == 201, created.text
    stored = created.json()
    assert stored["channels"]["email"] == email and stored["variables"] == ["name"]
    shown = await api.sender.post(f"{PATH}/{stored['key']}/preview", json={"locale": "ar", "data": {"name": "<Ada>"}})
    parts = shown.json()["channels"]["email"]
    assert set(parts) == {"subject", "html", "text"}
    assert parts["text"] == "<Ada>"
    assert 'dir="rtl"' in parts["html"] and "&lt;Ada&gt;" in parts["html"]


# -- attacks


def parts(case: dict[str, Any]) -> dict[str, dict[str, str]]:
    if case["format"] == "html":
        return {"email": {"subject": "s", "html": case["template"]}}
    return {"email": {"subject": "s", "text": case["template"]}}


def context(case: dict[str, Any]) -> dict[str, Any]:
    return ATTACKS["context"] | case.get("context_patch", {})


async def post(client: httpx.AsyncClient, path: str, body: dict[str, Any]) -> httpx.Response:
    answer = await client.post(path, content=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    assert answer.status_code < 500, answer.text
    if answer.status_code >= 400:
        assert not [word for word in ("Traceback", "jinja2", "site-packages") if word in answer.text]
    return answer


@pytest.mark.parametrize("case", ATTACKS["cases"], ids=[case["id"] for case in ATTACKS["cases"]])
async def test_attacks_end_as_their_case_says(api: RunningApi, case: dict[str, Any]) -> None:
    key, data = fresh_key(), context(case)
    outcomes = {case["expect"], *case.get("accept_also", ())}
    began = time.perf_counter()
    created = await post(api.admin, PATH, {"key": key, "channels": parts(case)})
    shown = await post(api.sender, f"{PATH}/preview", {"channels": parts(case), "data": data})
    if created.status_code == 201:
        saved = await post(api.sender, f"{PATH}/{key}/preview", {"data": data})
        assert saved.status_code == shown.status_code
    inline = {"content": parts(case)["email"], "data": data}
    sent = await post(api.sender, "/api/v1/notifications", a_request(**inline))
    assert time.perf_counter() - began < ATTACKS["limits"]["wall_s"]
    if shown.status_code >= 400:
        assert "rejected" in outcomes
        assert sent.status_code >= 400
        return
    assert outcomes & {"rendered-safely", "bounded"}
    assert created.status_code == 201
    text = shown.json()["channels"]["email"]["html" if case["format"] == "html" else "text"]
    assert not [bad for bad in case.get("must_not_contain", ()) if bad in text]
    assert all(good in text for good in case.get("must_contain", ()))
    assert text == case.get("must_equal", text)


async def test_others_are_served_while_attacks_run(api: RunningApi) -> None:
    async def attack() -> None:
        for case in ATTACKS["cases"]:
            await post(api.sender, f"{PATH}/preview", {"channels": parts(case), "data": context(case)})

    attacks = [asyncio.create_task(attack()) for _ in range(3)]
    waits = []
    while not all(task.done() for task in attacks):
        began = time.perf_counter()
        assert (await api.sender.post("/api/v1/notifications", json=a_request())).status_code == 202
        waits.append(time.perf_counter() - began)
    await asyncio.gather(*attacks)
    assert sorted(waits)[int(len(waits) * 0.99)] < 2
