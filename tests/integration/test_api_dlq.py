"""Dead letters over HTTP: lists, looks, and replays that the workers do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from models.enums import Channel, Outcome
from streams.providers.base import DeliveryResult
from tests.fixtures.service import Ledger, a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi

DLQ = "/api/v1/dlq"
SECRET = "content that no list may show"
REFUSE = DeliveryResult(outcome=Outcome.PERMANENT, provider="ledger", reason="550 no")
TAKE = DeliveryResult(outcome=Outcome.SENT, provider="ledger", provider_message_id="m-1")
LANES = {"requests-normal", "send-email-normal"}


@pytest.fixture(scope="module")
async def ledger() -> Ledger:
    return Ledger(answer=lambda _: REFUSE)


@pytest.fixture(scope="module", autouse=True)
async def worker(api: RunningApi, ledger: Ledger) -> AsyncIterator[None]:
    async with api.service.worker(providers={Channel.EMAIL: (ledger,)}, only=LANES):
        yield


@pytest.fixture(scope="module")
async def dead(api: RunningApi, ledger: Ledger, worker: None) -> list[UUID]:
    """Five notifications that the provider refused."""
    requests = [a_request(content={"subject": "S", "text": SECRET}) for _ in range(5)]
    for request in requests:
        await api.service.publish(request)
    ids = [UUID(request["id"]) for request in requests]
    async with asyncio.timeout(30):
        while len(await rows(api, ids)) < 5:
            await asyncio.sleep(0.05)
    ledger.answer = lambda _: TAKE
    return ids


async def rows(api: RunningApi, ids: list[UUID]) -> list[Any]:
    statement = "SELECT * FROM delivery_failures WHERE notification_id = ANY(:ids)"
    return await api.service.fetch(statement, ids=ids)


async def test_the_list_is_paged_and_filtered(api: RunningApi, dead: list[UUID]) -> None:
    found, cursor = [], None
    while True:
        page = (await api.admin.get(DLQ, params={"limit": 2} | ({"cursor": cursor} if cursor else {}))).json()
        found += page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert {item["notification_id"] for item in found} >= {str(one) for one in dead}
    assert len({item["id"] for item in found}) == len(found)
    assert [item["failed_at"] for item in found] == sorted((item["failed_at"] for item in found), reverse=True)
    assert SECRET not in json.dumps(found)
    for query, count in (
        ({"notification_id": str(dead[0])}, 1),
        ({"error_class": "permanent", "channel": "email", "stage": "delivery"}, 5),
        ({"topic": "notification.send.sms.normal"}, 0),
        ({"until": "2026-01-01T00:00:00Z"}, 0),
        ({"since": "2026-01-01T00:00:00Z", "limit": 200}, len(found)),
    ):
        assert len((await api.admin.get(DLQ, params=query)).json()["items"]) == count, query


async def test_a_letter_is_shown_without_content(api: RunningApi, dead: list[UUID]) -> None:
    [row] = await rows(api, dead[:1])
    answer = await api.admin.get(f"{DLQ}/{row.id}")
    shown = answer.json()
    assert answer.status_code == 200
    assert SECRET not in answer.text
    assert "@example.com" not in answer.text
    assert (shown["is_kept"], shown["error_class"], shown["attempts"]) == (True, "permanent", 1)
    assert shown["replay"]["possible"] is True
    assert (shown["replay"]["topic"], shown["replay"]["generation"]) == ("notification.send.email.normal", 1)


async def test_content_is_an_audited_act(api: RunningApi, dead: list[UUID]) -> None:
    [row] = await rows(api, dead[:1])
    without = await api.admin.get(f"{DLQ}/{row.id}", params={"content": "true"})
    assert without.status_code == 422
    assert without.json()["errors"][0]["field"] == "reason"
    shown = await api.admin.get(f"{DLQ}/{row.id}", params={"content": "true", "reason": "ticket 7"})
    assert SECRET in shown.json()["content"]["text"]
    [entry] = await api.service.fetch("SELECT * FROM audit_log WHERE action = 'dead_letter_content_shown'")
    assert (entry.who, entry.reason, entry.details) == ("root", "ticket 7", {"ids": [row.id]})


async def test_a_letter_past_retention_is_told_by_its_index(api: RunningApi, dead: list[UUID]) -> None:
    await api.service.execute(
        "INSERT INTO delivery_failures (id, source_topic, source_partition, source_offset, stage, error_class,"
        " error_reason, attempts, failed_at) VALUES ('1-90017', 'notification.requests.low', 9, 9, 'request',"
        " 'invalid_request', 'body: is empty', 0, '2026-01-01T00:00:00Z') ON CONFLICT DO NOTHING"
    )
    shown = (await api.admin.get(f"{DLQ}/1-90017")).json()
    assert (shown["is_kept"], shown["error_class"]) == (False, "invalid_request")
    assert shown["replay"] == {
        "possible": False,
        "why": "past_retention",
        "told": "is past the topic's retention: only its row in the index is left",
    }
    assert (await api.admin.get(f"{DLQ}/1-90018")).status_code == 404
    assert (await api.admin.get(f"{DLQ}/x")).status_code == 404
    assert (await api.admin.get(f"{DLQ}/999999999-1")).status_code == 404
    await api.service.execute("DELETE FROM delivery_failures WHERE id = '1-90017'")


async def test_a_dry_run_counts_and_does_nothing(api: RunningApi, dead: list[UUID]) -> None:
    body = {"error_class": "permanent", "channel": "email", "dry_run": True}
    answer = await api.admin.post(f"{DLQ}/replay", json=body)
    assert answer.status_code == 200
    assert answer.json() == {
        "matched": 5,
        "to_replay": 5,
        "skipped": {},
        "groups": [
            {"error_class": "permanent", "channel": "email", "topic": "notification.send.email.normal", "letters": 5}
        ],
    }
    assert await api.service.fetch("SELECT 1 FROM dead_letter_replays") == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"reason": "r"}, "ids"),
        ({"stage": "delivery"}, "reason"),
        ({"stage": "delivery", "reason": ""}, "reason"),
        ({"stage": "delivery", "reason": "x" * 501}, "reason"),
        ({"stage": "nowhere", "reason": "r"}, "stage"),
        ({"stage": None, "reason": "r"}, "stage"),
        ({"ids": [], "reason": "r"}, "ids"),
        ({"ids": ["1-1"], "stage": "delivery", "reason": "r"}, "ids"),
        ({"ids": ["1_1"], "reason": "r"}, "ids.0"),
        ({"ids": [1], "reason": "r"}, "ids.0"),
        ({"ids": ["1-1"] * 1001, "reason": "r"}, "ids"),
        ({"channel": "fax", "reason": "r"}, "channel"),
        ({"topic": "a b", "reason": "r"}, "topic"),
        ({"since": "yesterday", "reason": "r"}, "since"),
        ({"until": 17, "reason": "r"}, "until"),
        ({"notification_id": "x", "reason": "r"}, "notification_id"),
        ({"stage": "delivery", "reason": "r", "rate": 0}, "rate"),
        ({"stage": "delivery", "reason": "r", "rate": "9"}, "rate"),
        ({"stage": "delivery", "reason": "r", "force": "yes"}, "force"),
        ({"stage": "delivery", "reason": "a\u0000b"}, "reason"),
        ({"stage": "delivery", "error_clas": "retry", "reason": "r"}, "error_clas"),
    ],
)
async def test_what_is_wrong_is_named(api: RunningApi, body: dict[str, Any], field: str) -> None:
    answer = await api.admin.post(f"{DLQ}/replay", json=body)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == field
    assert await api.service.fetch("SELECT 1 FROM dead_letter_replays") == []


async def test_odd_cursors_and_filters_are_refused(api: RunningApi) -> None:
    for query in ({"cursor": "x"}, {"cursor": "MQ=="}, {"stage": "x"}, {"limit": 0}, {"since": "x"}, {"topic": "ü"}):
        assert (await api.admin.get(DLQ, params=query)).status_code == 422, query
    assert (await api.admin.get(f"{DLQ}/replays", params={"cursor": "x"})).status_code == 422
    assert (await api.admin.get(f"{DLQ}/replays/{uuid4()}")).status_code == 404


async def test_workers_do_a_replay_and_another_goes_on_with_it(
    api: RunningApi, ledger: Ledger, dead: list[UUID]
) -> None:
    body = {"error_class": "permanent", "channel": "email", "reason": "it is back", "rate": 2}
    answer = await api.admin.post(f"{DLQ}/replay", json=body)
    assert answer.status_code == 202
    asked = answer.json()
    assert (asked["matched"], asked["to_replay"]) == (5, 5)
    assert answer.headers["location"] == asked["status_url"]
    waiting = (await api.admin.get(asked["status_url"])).json()
    assert (waiting["state"], waiting["replayed"], waiting["who"], waiting["reason"]) == (
        "waiting",
        0,
        "root",
        "it is back",
    )
    async with api.service.worker(only={"replays"}):
        await until(api, asked["status_url"], lambda told: told["replayed"] > 0)
    between = (await api.admin.get(asked["status_url"])).json()
    assert between["state"] == "running"
    assert 0 < between["replayed"] < 5

    async with api.service.worker(only={"replays"}), api.service.worker(only={"replays"}):
        done = await until(api, asked["status_url"], lambda told: told["state"] == "done")
    assert (done["replayed"], done["skipped"]) == (5, {})
    assert "finished_at" in done
    for one in dead:
        await api.service.until(one, "sent")
        assert len(ledger.of(one)) == 2
    listed = (await api.admin.get(f"{DLQ}/replays")).json()["items"]
    assert [item["replay_id"] for item in listed] == [asked["replay_id"]]
    [entry] = await api.service.fetch("SELECT * FROM audit_log WHERE action = 'dead_letters_replayed'")
    assert (entry.who, entry.reason) == ("root", "it is back")
    [row] = await rows(api, dead[:1])
    shown = (await api.admin.get(f"{DLQ}/{row.id}")).json()
    assert (shown["replay_id"], shown["replay"]["why"]) == (asked["replay_id"], "already_replayed")


async def until(api: RunningApi, url: str, holds: Any) -> dict[str, Any]:
    async with asyncio.timeout(20):
        while True:
            told: dict[str, Any] = (await api.admin.get(url)).json()
            if holds(told):
                return told
            await asyncio.sleep(0.05)
