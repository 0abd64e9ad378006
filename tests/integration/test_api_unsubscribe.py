"""The link in an e-mail: by mail programs and by people, and what it does to what is queued."""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import text

from models.enums import Channel
from models.repositories import deliveries
from streams.domain.unsubscribe import Leaving, UnsubscribeLinks
from tests.fixtures.api import RunningApi, an_api
from tests.fixtures.rows import Rows, delivery
from tests.fixtures.service import a_service
from tests.fixtures.stack import Databases, Identity

KEY = "the key of this service"
LINKS = UnsubscribeLinks(KEY, "https://comms.example.com")
PATH = "/api/v1/unsubscribe/"
ONE_CLICK = {"List-Unsubscribe": "One-Click"}


@pytest.fixture(scope="module")
async def keyed(
    kafka: str, postgres: Databases, migrated: str, valkey: str, identity: Identity
) -> AsyncIterator[RunningApi]:
    async with (
        a_service(kafka, postgres, migrated, valkey, secret_key=KEY) as service,
        an_api(service, identity) as running,
    ):
        yield running


def leaving(**fields: Any) -> Leaving:
    address = f"Ada-{uuid.uuid4().hex}@example.com"
    return Leaving(**{"channel": Channel.EMAIL, "address": address, "category": "news", **fields})


async def stored(api: RunningApi, one: Leaving) -> list[tuple[str, str, str]]:
    statement = text("SELECT category, reason, source FROM unsubscribe_lists WHERE address = :address")
    async with api.service.engine.connect() as connection:
        rows = await connection.execute(statement, {"address": one.address.lower()})
        return [(row.category, row.reason, row.source) for row in rows]


async def nobody(api: RunningApi, method: str, token: str, **more: Any) -> httpx.Response:
    return await api.client("nobody").request(method, PATH + token, **more)


@pytest.mark.parametrize(
    "body",
    [
        {"data": ONE_CLICK},
        {"files": {"List-Unsubscribe": (None, "One-Click")}},
        {"content": b""},
        {"content": b"&".join(b"a=1" for _ in range(100))},
        {"content": b"\xff\x00%zz"},
    ],
    ids=["form", "multipart", "empty", "crowd", "odd"],
)
async def test_a_mail_program_unsubscribes_with_one_post(keyed: RunningApi, body: dict[str, Any]) -> None:
    one = leaving()
    for _ in range(2):
        answer = await nobody(keyed, "POST", LINKS.token(one), **body)
        assert answer.status_code == 200
        assert "set-cookie" not in answer.headers
    assert await stored(keyed, one) == [("news", "unsubscribed", "link")]


async def test_looking_changes_nothing(keyed: RunningApi) -> None:
    one = leaving(notification_id=uuid.uuid4())
    token = LINKS.token(one)
    for method in ("GET", "HEAD"):
        answer = await nobody(keyed, method, token, headers={"Purpose": "prefetch"})
        assert answer.status_code == 200
        assert answer.headers["content-type"] == "text/html; charset=utf-8"
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS"):
        assert (await nobody(keyed, method, token)).status_code == 405
    assert await stored(keyed, one) == []


async def test_the_page_is_for_people_and_holds_nothing_from_elsewhere(keyed: RunningApi) -> None:
    one = leaving(category="x-<b>&amp")
    answer = await nobody(keyed, "GET", LINKS.token(one))
    headers = answer.headers
    assert headers["cache-control"] == "no-store"
    assert headers["x-robots-tag"] == "noindex, nofollow"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["x-content-type-options"] == "nosniff"
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    page = answer.text
    assert '<html lang="en" dir="ltr">' in page
    assert "<h1>Unsubscribe</h1>" in page
    assert one.address.lower() not in page.lower(), "whoever else has the link need not see it"
    assert "A***@example.com" in page
    assert "x-&lt;b&gt;&amp;amp" in page
    assert not re.search(r"https?://|<script|style=|onclick", page)
    assert '<form method="post"><button name="List-Unsubscribe" value="One-Click">Unsubscribe</button></form>' in page


async def test_a_person_leaves_and_comes_back_by_the_pages_buttons(keyed: RunningApi) -> None:
    one = leaving()
    token = LINKS.token(one)
    left = await nobody(keyed, "POST", token, data=ONE_CLICK)
    assert "no longer gets" in left.text
    assert '<button name="action" value="resubscribe">' in left.text
    back = await nobody(keyed, "POST", token, data={"action": "resubscribe"})
    assert "again" in back.text
    assert await stored(keyed, one) == []


async def test_coming_back_lifts_no_other_reason(keyed: RunningApi) -> None:
    one = leaving()
    await keyed.sender.post("/api/v1/suppressions", json={"address": one.address, "reason": "complained"})
    await nobody(keyed, "POST", LINKS.token(one), data={"action": "resubscribe"})
    assert await stored(keyed, one) == [("", "complained", "api")]


@pytest.mark.parametrize(
    ("accepts", "language", "direction"),
    [
        ("de-AT,de;q=0.9,en;q=0.5", "de", "ltr"),
        ("xx, fr;q=0.3", "fr", "ltr"),
        ("ar", "ar", "rtl"),
        ("*;q=x,es", "es", "ltr"),
    ],
)
async def test_it_speaks_the_readers_language(keyed: RunningApi, accepts: str, language: str, direction: str) -> None:
    answer = await nobody(keyed, "GET", LINKS.token(leaving()), headers={"Accept-Language": accepts})
    assert f'<html lang="{language}" dir="{direction}">' in answer.text
    assert answer.headers["content-language"] == language


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_forged_link_is_nobodys(keyed: RunningApi, method: str) -> None:
    good = LINKS.token(leaving())
    forged = UnsubscribeLinks("another key", "https://x").token(leaving())
    for token in (
        forged,
        good[:-1] + ("A" if good[-1] != "A" else "B"),
        good[:40],
        "x",
        "a" * 3000,
        "%00",
        "é",
        "..%2f",
    ):
        answer = await nobody(keyed, method, token, headers={"Accept": "application/json"})
        assert answer.status_code == 404, token
        assert answer.json()["code"] == "not_found"
        page = await nobody(keyed, method, token, headers={"Accept": "text/html,*/*"})
        assert page.status_code == 404
        if "text/html" in page.headers["content-type"]:
            assert "not valid" in page.text
            assert "<form" not in page.text


async def test_a_huge_body_is_refused(keyed: RunningApi) -> None:
    assert (await nobody(keyed, "POST", LINKS.token(leaving()), content=b"a" * 5000)).status_code == 413


async def test_what_is_queued_already_is_not_sent(keyed: RunningApi) -> None:
    rows, one = Rows(keyed.service.engine), leaving(category="general")
    queued = delivery(await rows.queued(), to=one.address)
    await nobody(keyed, "POST", LINKS.token(one), data=ONE_CLICK)
    async with rows.engine.begin() as connection:
        [claim] = (await deliveries.claim(connection, [queued], lease=timedelta(seconds=5))).values()
    assert claim.forbidden == "unsubscribed"


async def test_without_a_key_there_are_no_links(api: RunningApi) -> None:
    answer = await nobody(api, "POST", LINKS.token(leaving()), data=ONE_CLICK)
    assert answer.status_code == 404


async def test_templates_may_print_the_link(keyed: RunningApi) -> None:
    key = f"t-{uuid.uuid4().hex[:8]}"
    channels = {
        "email": {"subject": "News, {{ name }}", "html": '<a href="{{ unsubscribe_url }}">Leave</a>'},
        "in_app": {"title": "News", "body": "{{ unsubscribe_url }}Hello {{ name }}"},
    }
    created = await keyed.admin.post("/api/v1/templates", json={"key": key, "channels": channels})
    assert created.status_code == 201, created.text
    assert created.json()["variables"] == ["name"]
    preview = await keyed.sender.post(f"/api/v1/templates/{key}/preview", json={"data": {"name": "Ada"}})
    assert preview.json()["channels"]["in_app"]["body"] == "Hello Ada"
    request = {"user_id": "u-1", "template_id": key, "channels": ["email", "in_app"], "data": {"name": "Ada"}}
    taken = await keyed.sender.post("/api/v1/notifications", json=request | {"recipient": {"email": "a@example.com"}})
    assert taken.status_code == 202, taken.text
