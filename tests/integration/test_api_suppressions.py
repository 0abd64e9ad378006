"""Suppressions and bounces over HTTP: listing, adding, lifting, importing, exporting; what is audited."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import pytest
from sqlalchemy import text

from streams.clock import now
from streams.suppression import note_bounces
from tests.integration.test_suppression import SETTINGS, bounce

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi

PATH = "/api/v1/suppressions"


def somebody() -> str:
    return f"ada-{uuid.uuid4().hex}@example.com"


async def add(api: RunningApi, address: str, **more: Any) -> httpx.Response:
    return await api.sender.post(PATH, json={"address": address, **more})


async def listed(api: RunningApi, **params: Any) -> list[dict[str, Any]]:
    answer = await api.sender.get(PATH, params=params)
    assert answer.status_code == 200, answer.text
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def audited(api: RunningApi, action: str) -> list[Any]:
    async with api.service.engine.connect() as connection:
        statement = text("SELECT who, reason, details FROM audit_log WHERE action = :action ORDER BY at DESC")
        return list((await connection.execute(statement, {"action": action})).all())


async def test_one_is_added_once_read_and_lifted(api: RunningApi) -> None:
    address = somebody()
    body = {"category": "news", "note": "asked by phone"}
    answers = [await add(api, address.upper(), **body), await add(api, address, **body)]
    assert [answer.status_code for answer in answers] == [201, 200]
    first, again = (answer.json() for answer in answers)
    assert first == again
    assert {name: first[name] for name in ("address", "channel", "category", "reason", "source", "note")} == {
        "address": address,
        "channel": "email",
        "category": "news",
        "reason": "manual",
        "source": "api",
        "note": "asked by phone",
    }
    assert await listed(api, address=address.upper()) == [first]
    url = f"{PATH}/{first['suppression_id']}"
    assert (await api.sender.get(url)).json() == first
    assert [(await api.sender.delete(url)).status_code for _ in range(2)] == [204, 404]
    assert await listed(api, address=address) == []
    for action in ("suppression_added", "suppression_removed"):
        found = await audited(api, action)
        assert found[0].who == "tester"
        assert found[0].details["suppression_id"] == first["suppression_id"]
        assert address not in str(found)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"address": "nobody"},
        {"address": "+1"},
        {"address": "ada@example.com", "channel": "sms"},
        {"address": "+4915112345678", "channel": "email"},
        {"address": "ada@example.com", "channel": "push"},
        {"address": "ada@example.com", "reason": "whim"},
        {"address": "ada@example.com", "category": ""},
        {"address": "ada@example.com", "categroy": "news"},
        {"address": "ada\u0000@example.com"},
        {"address": "ada@example.com", "note": "x" * 501},
    ],
)
async def test_what_is_no_suppression_is_refused(api: RunningApi, body: dict[str, Any]) -> None:
    answer = await api.sender.post(PATH, json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid")


async def test_filters_and_pages(api: RunningApi) -> None:
    category = f"c-{uuid.uuid4().hex[:8]}"
    emails = [somebody() for _ in range(5)]
    for address in emails:
        await add(api, address, category=category)
    await add(api, "+4915112345678", category=category, reason="opted_out")
    assert len(await listed(api, category=category)) == 6
    [sms] = await listed(api, category=category, channel="sms")
    assert sms["address"] == "+4915112345678"
    assert await listed(api, category=category, reason="opted_out") == [sms]
    assert sms in await listed(api, address="+4915112345678")
    unescaped = await api.sender.get(f"{PATH}?address=+4915112345678&category={category}")
    assert unescaped.json()["items"] == [sms]
    seen: list[str] = []
    params: dict[str, Any] = {"category": category, "limit": 2}
    while True:
        page = (await api.sender.get(PATH, params=params)).json()
        seen += [item["address"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == ["+4915112345678", *reversed(emails)]
    everything = somebody()
    await add(api, everything)
    [found] = await listed(api, category="*", address=everything)
    assert "category" not in found
    assert (await api.sender.get(PATH, params={"address": "nobody"})).status_code == 422


def rows_of(content: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(content, newline="")))


async def imported(api: RunningApi, content: Any, kind: str = "text/csv") -> httpx.Response:
    return await api.sender.post(f"{PATH}/import", content=content, headers={"Content-Type": kind})


async def test_an_export_can_be_imported_again(api: RunningApi) -> None:
    category = f"c-{uuid.uuid4().hex[:8]}"
    notes = ['=HYPERLINK("http://evil.example")', "+1", "-1", "@SUM(A1)", "\tx", "'=1", 'a,"b"\nc', "plain", None]
    for number, note in enumerate(notes):
        more = {} if note is None else {"note": note}
        assert (await add(api, f"{number}{somebody()}", category=category, **more)).status_code == 201
    await add(api, "+4915112345678", category=category, reason="complained")
    exported = await api.sender.get(f"{PATH}/export", params={"category": category})
    assert exported.headers["content-type"] == "text/csv; charset=utf-8"
    rows = rows_of(exported.text)
    assert len(rows) == 10
    cells = [cell for row in rows for cell in row.values()]
    assert not [cell for cell in cells if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]
    assert "'+4915112345678" in cells
    before = await listed(api, category=category)
    for entry in before:
        await api.sender.delete(f"{PATH}/{entry['suppression_id']}")
    for added, known in ((10, 0), (0, 10)):
        answer = await imported(api, exported.content)
        assert answer.json() == {"added": added, "known": known, "rejected": 0, "errors": []}
    after = await listed(api, category=category)
    changed = ("suppression_id", "source")
    assert [{k: v for k, v in one.items() if k not in changed} for one in after] == [
        {k: v for k, v in one.items() if k not in changed} for one in before
    ]
    assert (await audited(api, "suppressions_exported"))[0].details == {"category": category}
    assert (await audited(api, "suppressions_imported"))[0].details == {"added": 0, "known": 10, "rejected": 0}


async def test_lines_that_can_not_be_taken_are_told(api: RunningApi) -> None:
    category = f"c-{uuid.uuid4().hex[:8]}"
    lines = [
        {"address": somebody(), "category": category},
        {"address": "nobody"},
        {"address": somebody(), "category": category, "reason": "whim"},
        {"address": somebody(), "category": category, "note": "x" * 20_000},
        {"address": somebody(), "category": category},
    ]
    content = b"\n".join(orjson.dumps(line) for line in lines) + b"\n\nnot json\n[1]\n\xff\n"
    told = (await imported(api, content, "application/x-ndjson")).json()
    assert (told["added"], told["known"], told["rejected"]) == (2, 0, 6)
    assert [error["index"] for error in told["errors"]] == [1, 2, 3, 5, 6, 7]
    assert "nobody" not in str(told["errors"])
    assert len(await listed(api, category=category)) == 2


async def test_a_header_that_says_nothing_is_refused(api: RunningApi) -> None:
    for content in ("e-mail,why\na@example.com,x\n", "address,address\n", "channel\nemail\n"):
        answer = await imported(api, content)
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "header")
    assert (await imported(api, "x", "text/plain")).status_code == 415
    with_mark = b"\xef\xbb\xbfAddress ,NOTE\r\n" + somebody().encode() + b",\r\n"
    assert (await imported(api, with_mark)).json()["added"] == 1


async def test_a_long_stream_in_small_pieces(api: RunningApi) -> None:
    category = f"c-{uuid.uuid4().hex[:8]}"

    async def stream() -> AsyncIterator[bytes]:
        yield b"address,category,note\n"
        for start in range(0, 5000, 100):
            lines = "".join(
                f'{number}-{category}@example.com,{category},"a\n""b"""\n' for number in range(start, start + 100)
            )
            middle = len(lines) // 2
            yield lines[:middle].encode()
            yield lines[middle:].encode()

    answer = await imported(api, stream())
    assert answer.json() == {"added": 5000, "known": 0, "rejected": 0, "errors": []}
    exported = rows_of((await api.sender.get(f"{PATH}/export", params={"category": category})).text)
    assert len(exported) == 5000
    assert {row["note"] for row in exported} == {'a\n"b"'}


async def test_bounces_are_listed_and_counted_by_category(api: RunningApi) -> None:
    address, category = somebody(), f"c-{uuid.uuid4().hex[:8]}"
    found = [bounce(address, category=category, is_permanent=hard, occurred_at=now()) for hard in (True, False)]
    async with api.service.engine.begin() as connection:
        await note_bounces(connection, found, settings=SETTINGS)
        await connection.execute(
            text(
                "INSERT INTO category_sends (category, channel, counted_at, sent)"
                " VALUES (:category, 'email', clock_timestamp(), 20)"
            ),
            {"category": category},
        )
    items = (await api.sender.get("/api/v1/bounces", params={"address": address})).json()["items"]
    assert {(item["kind"], item["address"], item["delivery_id"]) for item in items} == {
        ("hard", address, str(found[0].delivery_id)),
        ("soft", address, str(found[1].delivery_id)),
    }
    params = {"category": category, "kind": "hard", "since": "2026-01-01T00:00:00Z", "limit": 1}
    page = (await api.sender.get("/api/v1/bounces", params=params)).json()
    assert [item["kind"] for item in page["items"]] == ["hard"]
    rates = (await api.sender.get("/api/v1/bounces/rates", params={"limit": 200})).json()["items"]
    [rate] = [rate for rate in rates if rate["category"] == category]
    assert rate == {"category": category, "sent": 20, "bounced": 1, "soft": 1, "rate": 0.05, "paused": False}
    [entry] = await listed(api, address=address)
    assert (entry["reason"], entry["source"], entry["note"]) == ("bounced", "provider", "4.2.2")
