"""The segments of an SMS from the request lane to `GET /notifications/{id}`'s row."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import UUID

import orjson
import pytest
from sqlalchemy import text

from models.enums import Priority
from models.repositories import reading
from models.settings import Settings
from streams.agents.requests import RequestStage
from streams.directory import Directory
from streams.domain.segments import MAX_SEGMENTS
from streams.domain.templates import Renderer
from streams.records import Incoming, Outgoing
from tests.fixtures.rows import Rows, some_rows
from tests.fixtures.service import a_request
from tests.fixtures.stack import Databases

PHONE = "+4915112345678"


class Kafka:
    """Takes all."""

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        return [(0, place) for place, _ in enumerate(records)]


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


async def stored(rows: Rows, message: str) -> dict[str, tuple[str, int | None]]:
    """What a request lane writes for an SMS and an e-mail: status and segments by channel."""
    request = a_request(
        channels=["sms", "email"],
        content={"subject": "S", "text": message},
        recipient={"phone": PHONE, "email": "ada@example.com"},
    )
    request.pop("channel", None)
    stage = RequestStage(
        engine=rows.engine,
        publisher=Kafka(),
        renderer=Renderer(),
        directory=Directory(),
        settings=Settings(database_url="postgresql://none/none"),
        cluster_id="c-1",
        clock=lambda: datetime.now(UTC),
    )
    value = orjson.dumps(request)
    await stage(Priority.NORMAL, [Incoming("notification.requests.normal", 0, 1, 1_000, b"u", value, ())])
    async with rows.engine.connect() as connection:
        found = await reading.deliveries(connection, UUID(request["id"]))
        nulls = await connection.scalar(text("SELECT count(*) FROM notification_deliveries WHERE segments IS NULL"))
    assert nulls
    return {one.channel: (one.status, one.segments) for one in found}


async def test_are_stored_for_sms_alone(rows: Rows) -> None:
    assert await stored(rows, "ж" * 71) == {"sms": ("queued", 2), "email": ("queued", None)}


async def test_too_many_fail_before_anything_is_sent(rows: Rows) -> None:
    found = await stored(rows, "ж" * (67 * MAX_SEGMENTS + 1))
    assert found == {"sms": ("failed", MAX_SEGMENTS + 1), "email": ("queued", None)}
