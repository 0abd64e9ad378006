"""Sending and reading over HTTP, with real servers behind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import orjson

from streams.topics import request_topic
from tests.fixtures.service import a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


PATH = "/api/v1/notifications"


async def send(api: RunningApi, **fields: Any) -> dict[str, Any]:
    request = a_request(**fields)
    answer = await api.sender.post(PATH, json=request)
    assert answer.status_code == 202, answer.text
    return request


async def test_an_accepted_request_is_on_its_topic_and_found(api: RunningApi) -> None:
    request = a_request(priority="high", metadata={"order": "7"})
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    answer = await api.sender.post(PATH, json=request, headers={"traceparent": trace})
    assert answer.status_code == 202, answer.text
    assert answer.json() == {
        "notification_id": request["id"],
        "status": "accepted",
        "status_url": f"{PATH}/{request['id']}",
    }
    assert answer.headers["location"] == answer.json()["status_url"]
    record = (await api.service.records(request_topic("high"), count=1))[0]
    assert record.key == request["user_id"].encode()
    assert orjson.loads(record.value)["id"] == request["id"]
    headers = dict(record.headers)
    assert headers["traceparent"] == trace.encode()
    assert headers["client-id"] == b"tester"

    found = (await api.sender.get(answer.json()["status_url"])).json()
    assert found["notification_id"] == request["id"]
    assert (found["status"], found["category"], found["priority"]) == ("accepted", "general", "high")
    assert found["metadata"] == {"order": "7"}
    assert found["deliveries"] == []
    assert [entry["event"] for entry in found["timeline"]] == ["accepted"]


async def test_a_repeat_is_answered_the_same_and_another_body_is_a_conflict(api: RunningApi) -> None:
    request = await send(api)
    again = await api.sender.post(PATH, json=request)
    assert (again.status_code, again.json()["notification_id"]) == (202, request["id"])
    other = await api.sender.post(PATH, json=request | {"data": {"name": "Bob"}})
    assert (other.status_code, other.json()["code"]) == (422, "conflict")


async def test_the_idempotency_key_of_header_and_body_are_one(api: RunningApi) -> None:
    key = f"order {uuid4()}"
    request = {name: value for name, value in a_request().items() if name != "id"}
    by_header = await api.sender.post(PATH, json=request, headers={"Idempotency-Key": key})
    by_body = await api.sender.post(PATH, json=request | {"idempotency_key": key})
    by_both = await api.sender.post(PATH, json=request | {"idempotency_key": key}, headers={"Idempotency-Key": key})
    assert by_header.json() == by_body.json() == by_both.json()
    differing = await api.sender.post(PATH, json=request | {"idempotency_key": "x"}, headers={"Idempotency-Key": key})
    assert (differing.status_code, differing.json()["errors"][0]["field"]) == (422, "idempotency_key")
    others = await api.admin.post(PATH, json=request, headers={"Idempotency-Key": key})
    assert others.json()["notification_id"] != by_header.json()["notification_id"]


async def test_many_repeats_at_once_are_one(api: RunningApi) -> None:
    request = a_request()
    answers = await asyncio.gather(*(api.sender.post(PATH, json=request) for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    rows = await api.service.fetch("SELECT count(*) AS n FROM notifications WHERE id = :id", id=request["id"])
    assert rows[0].n == 1


async def test_a_missing_variable_is_named(api: RunningApi) -> None:
    content = {"subject": "{{ title }}", "text": "{% for line in order.lines %}{{ line.sku }}{% endfor %}"}
    request = a_request(channels=["email"], content=content, data={"order": {}})
    request.pop("channel")
    answer = await api.sender.post(PATH, json=request)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "data.title"
    assert (await api.sender.get(f"{PATH}/{request['id']}")).status_code == 404


async def test_inline_content_is_checked_for_every_channel(api: RunningApi) -> None:
    request = a_request(content={"subject": "s", "text": "t {{ ''.__class__ }}"}, channels=["email", "sms"])
    request.pop("channel")
    answer = await api.sender.post(PATH, json=request)
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["content.text"]


async def test_channels_come_from_the_category_or_must_be_named(api: RunningApi) -> None:
    await api.admin.post(
        "/api/v1/categories", json={"key": "alerts", "default_channels": ["email"], "priority": "high"}
    )
    await api.admin.post("/api/v1/categories", json={"key": "silent"})
    request = a_request(category="alerts")
    request.pop("channel")
    answer = await api.sender.post(PATH, json=request)
    assert answer.status_code == 202
    found = (await api.sender.get(answer.json()["status_url"])).json()
    assert found["priority"] == "high"
    for category in ("silent", "nobody-knows"):
        refused = await api.sender.post(PATH, json=request | {"id": str(uuid4()), "category": category})
        assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "channels")


async def test_lists_are_paged_from_new_to_old_without_gap_or_repeat(api: RunningApi) -> None:
    sent = [(await send(api, user_id="u-pages"))["id"] for _ in range(7)]
    found: list[str] = []
    cursor = None
    for _ in range(10):
        query = {"user_id": "u-pages", "limit": "3"} | ({"cursor": cursor} if cursor else {})
        page = (await api.sender.get(PATH, params=query)).json()
        found += [item["notification_id"] for item in page["items"]]
        if len(found) == 3:
            sent.append((await send(api, user_id="u-pages"))["id"])  # New ones come before the first page.
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert found == sent[6::-1]


async def test_lists_are_filtered(api: RunningApi) -> None:
    request = await send(api, user_id="u-filters", category="alerts")
    await send(api, user_id="u-filters")
    row = (await api.sender.get(f"{PATH}/{request['id']}")).json()

    async def count(**query: str) -> int:
        answer = await api.sender.get(PATH, params={"user_id": "u-filters"} | query)
        assert answer.status_code == 200, answer.text
        return len(answer.json()["items"])

    assert await count() == 2
    assert await count(category="alerts") == 1
    assert await count(status="accepted") == 2
    assert await count(status="sent") == 0
    assert await count(channel="email") == 0  # No lane has fanned it out.
    assert await count(since=row["created_at"]) == 2
    assert await count(since="2090-01-01T00:00:00+01:00") == 0
    unescaped = await api.sender.get(f"{PATH}?user_id=u-filters&since=2020-01-01T00:00:00+01:00")
    assert len(unescaped.json()["items"]) == 2


async def test_deliveries_and_attempts_are_told(api: RunningApi) -> None:
    request = await send(api)
    await api.service.execute(
        """
        WITH d AS (
            INSERT INTO notification_deliveries
                (delivery_id, notification_id, channel, status, rank, attempts, created_at, updated_at)
            VALUES (gen_random_uuid(), :id, 'email', 'retrying', 30, 1, now(), now()) RETURNING delivery_id
        )
        INSERT INTO delivery_logs
            (delivery_id, generation, attempt, source_partition, source_offset, claimed_at, lease_until,
             outcome, provider, reason, retry_at, finished_at)
        SELECT delivery_id, 0, 1, 0, 0, now() + interval '1 s', now(),
               'retry', 'smtp', '451', now(), now() + interval '2 s' FROM d
        UNION ALL
        SELECT delivery_id, 0, 2, 0, 1, now() + interval '3 s', now() + interval '1 hour',
               NULL, NULL, NULL, NULL, NULL FROM d
        """,
        id=request["id"],
    )
    found = (await api.sender.get(f"{PATH}/{request['id']}")).json()
    assert found["status"] == "sending"
    assert [(one["channel"], one["status"], one["attempts"]) for one in found["deliveries"]] == [
        ("email", "sending", 1)
    ]
    told = [(entry["event"], entry.get("detail")) for entry in found["timeline"]]
    assert told == [
        ("accepted", None),
        ("queued", None),
        ("sending", "attempt 1"),
        ("retrying", "attempt 1: smtp: 451"),
        ("sending", "attempt 2"),
    ]
