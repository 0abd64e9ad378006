"""The way of a request through the app, with nothing behind it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import httpx
import pytest

from api.app import create_app
from api.health import Probes
from api.identity import Caller, unauthorized
from models.enums import Priority, Role, Status
from models.requests import NotificationRequest
from models.session import create_engine
from models.settings import Settings
from streams.intake import Accepted, NotAccepted
from streams.records import Headers, Outgoing

PATH = "/api/v1/notifications"
REQUEST = {"user_id": "u-1", "channel": "email", "content": {"subject": "s", "text": "Hello {{ name }}"}}


class FakeIntake:
    """Writes down what it is asked to accept."""

    def __init__(self) -> None:
        self.asked: list[tuple[NotificationRequest, str, Priority, Headers]] = []
        self.error: Exception | None = None

    async def accept(
        self, request: NotificationRequest, *, client: str, priority: Priority, headers: Headers = ()
    ) -> Accepted:
        self.asked.append((request, client, priority, headers))
        if self.error is not None:
            raise self.error
        return Accepted(UUID(int=9), Status.ACCEPTED, datetime(2026, 1, 1, tzinfo=UTC))

    async def publish(self, records: Sequence[Outgoing]) -> bool:
        raise AssertionError("not asked for here")


class FakeIdentity:
    """The token is the role."""

    async def caller(self, authorization: str | None) -> Caller:
        if authorization is None:
            raise unauthorized("no token")
        return Caller("shop", frozenset({Role(authorization.removeprefix("Bearer "))}))


@pytest.fixture
def intake() -> FakeIntake:
    return FakeIntake()


@pytest.fixture
async def client(intake: FakeIntake) -> AsyncIterator[httpx.AsyncClient]:
    """A caller of an app whose database refuses connections."""
    settings = Settings(database_url="postgresql://nobody@127.0.0.1:9/none", root_path="/comms")
    engine = create_engine(settings, name="tests")

    async def away() -> str | None:
        raise OSError

    async def there() -> str | None:
        return None

    health = Probes({"kafka": there, "postgres": there, "redis": away})
    app = create_app(settings, engine=engine, intake=intake, identity=FakeIdentity(), health=health)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(
            transport=transport, base_url="http://api", headers={"Authorization": "Bearer service"}
        ) as made,
    ):
        yield made
    await engine.dispose()


async def send(client: httpx.AsyncClient, headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
    return await client.post(PATH, json=REQUEST | {"data": {"name": "Ada"}} | fields, headers=headers)


async def test_a_request_is_handed_in_under_the_callers_name(client: httpx.AsyncClient, intake: FakeIntake) -> None:
    answer = await send(client, {"Idempotency-Key": "k 1"}, priority="high")
    assert answer.status_code == 202
    assert answer.json()["status_url"] == f"/comms{PATH}/{UUID(int=9)}"
    request, caller, priority, headers = intake.asked[0]
    assert (request.idempotency_key, caller, priority, headers) == ("k 1", "shop", Priority.HIGH, ())


async def test_what_cannot_be_checked_without_the_database_is_left_to_the_lanes(
    client: httpx.AsyncClient, intake: FakeIntake
) -> None:
    by_template = {name: value for name, value in REQUEST.items() if name != "content"} | {"template_id": "t"}
    assert (await client.post(PATH, json=by_template)).status_code == 202
    without_channel = {name: value for name, value in REQUEST.items() if name != "channel"}
    assert (await client.post(PATH, json=without_channel)).status_code == 202
    assert intake.asked[0][2] is Priority.NORMAL


async def test_what_can_be_checked_is(client: httpx.AsyncClient, intake: FakeIntake) -> None:
    missing = await send(client, data={})
    assert missing.json()["errors"] == [{"field": "data.name", "reason": "is missing; email text prints it"}]
    forged = await send(client, options={"email": {"reply_to": "a@example.com", "headers": {"Bcc": "b@example.com"}}})
    assert forged.json()["errors"][0]["field"].startswith("options.email.headers")
    long_subject = await send(client, content={"subject": "{{ name }}", "text": "t"}, data={"name": "x" * 2000})
    assert long_subject.json()["errors"][0]["field"] == "content.subject"
    assert intake.asked == []


async def test_what_was_not_stored_is_told_with_its_id(client: httpx.AsyncClient, intake: FakeIntake) -> None:
    intake.error = NotAccepted(UUID(int=3))
    answer = await send(client)
    assert (answer.status_code, answer.json()["notification_id"]) == (503, str(UUID(int=3)))
    assert answer.headers["retry-after"] == "1"


async def test_the_unforeseen_is_a_500_without_words(client: httpx.AsyncClient, intake: FakeIntake) -> None:
    intake.error = RuntimeError("secret")
    answer = await send(client)
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "secret" not in answer.text
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


async def test_a_gateways_prefix_and_the_other_operations_have_the_same_edge(
    client: httpx.AsyncClient, intake: FakeIntake
) -> None:
    intake.error = RuntimeError("secret")
    prefixed = await client.post(f"/comms{PATH}", json=REQUEST | {"data": {"name": "Ada"}})
    assert (prefixed.status_code, prefixed.json()["code"]) == (500, "internal")
    unread = await client.get(f"{PATH}/{UUID(int=9)}")
    assert (unread.status_code, unread.json()["code"]) == (503, "unavailable")
    assert unread.json()["request_id"] == unread.headers["x-request-id"]


@pytest.mark.parametrize("trace", ["00-" + "a" * 32 + "-" + "b" * 16 + "-01", "00-zz", "x" * 500])
async def test_only_a_trace_travels_on(client: httpx.AsyncClient, intake: FakeIntake, trace: str) -> None:
    await send(client, {"traceparent": trace})
    assert intake.asked[0][3] == ((("traceparent", trace.encode()),) if trace.startswith("00-a") else ())


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\tkey", "é".encode().decode("latin-1")])
async def test_odd_keys_are_refused(client: httpx.AsyncClient, intake: FakeIntake, key: str) -> None:
    answer = await client.post(PATH, json=REQUEST, headers=[(b"idempotency-key", key.encode("latin-1"))])
    assert answer.json()["errors"][0]["field"] == "Idempotency-Key"
    assert intake.asked == []


async def test_refusals_come_before_the_body_is_read(client: httpx.AsyncClient, intake: FakeIntake) -> None:
    answer = await client.post(PATH, content=b"{", headers={"Authorization": "Bearer user"})
    assert answer.status_code == 403
    assert intake.asked == []


async def test_ready_is_ready_without_redis_and_says_so(client: httpx.AsyncClient) -> None:
    answer = await client.get("/ready")
    assert answer.status_code == 200
    assert answer.json() == {
        "status": "ready",
        "kafka": {"ok": True},
        "postgres": {"ok": True},
        "redis": {"ok": False, "missing": "does not answer"},
        "providers": {},
    }


async def test_methods_and_paths_that_are_none(client: httpx.AsyncClient) -> None:
    wrong = await client.request("PATCH", PATH)
    assert (wrong.status_code, wrong.json()["code"]) == (405, "method_not_allowed")
    for path in ("/", "/api/v1", f"{PATH}/", "/api/v2/notifications", "//health"):
        answer = await client.get(path)
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json"), path
