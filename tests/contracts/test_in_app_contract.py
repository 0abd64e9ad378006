"""The in-app provider against an inbox in memory; the real tables are tested with the database."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import pytest
from sqlalchemy.exc import DataError, IntegrityError, InterfaceError, OperationalError
from structlog.testing import capture_logs

from models.deliveries import Delivery
from models.enums import Outcome
from models.errors import Unavailable
from models.requests import Options
from streams.providers.in_app import InAppProvider
from tests.contracts.deliveries import SECRETS, SUBJECT, TEXT, in_app_delivery
from tests.contracts.provider_contract import ProviderContract

_ERRORS: dict[str, Exception] = {
    "unavailable": Unavailable("postgres", "does not answer"),
    "refused": ConnectionRefusedError("127.0.0.1"),
    "timeout": TimeoutError(),
    "operational": OperationalError("insert", {"title": SUBJECT}, Exception("server closed")),
    "interface": InterfaceError("insert", {"title": SUBJECT}, Exception("connection is closed")),
    "data": DataError("insert", {"title": SUBJECT}, Exception("invalid byte sequence")),
    "integrity": IntegrityError("insert", {"title": SUBJECT}, Exception("violates check")),
}


class MemoryInbox:
    """An inbox, and a Redis beside it."""

    def __init__(self) -> None:
        self.rows: dict[str, Delivery] = {}
        self.announced: list[tuple[str, dict[str, Any]]] = []
        self.failure: str = ""

    async def add(self, delivery: Delivery) -> bool:
        if self.failure == "hang":
            await asyncio.sleep(3600)
        if self.failure in _ERRORS:
            raise _ERRORS[self.failure]
        new = str(delivery.delivery_id) not in self.rows
        self.rows.setdefault(str(delivery.delivery_id), delivery)
        return new

    async def announce(self, user_id: str, message: dict[str, Any]) -> None:
        if self.failure == "redis":
            raise ConnectionError("redis://:password@127.0.0.1 is away")
        self.announced.append((user_id, message))

    def taken(self) -> list[str]:
        return list(self.rows)

    def misbehave(self, how: str) -> None:
        self.failure = how

    def behave(self) -> None:
        self.failure = ""

    async def stop(self) -> None:
        self.failure = "refused"


@pytest.fixture
def counterpart() -> MemoryInbox:
    return MemoryInbox()


@pytest.fixture
def provider(counterpart: MemoryInbox) -> InAppProvider:
    return InAppProvider(inbox=counterpart, announcer=counterpart)


class TestInApp(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "unavailable": Outcome.RETRY,
        "refused": Outcome.RETRY,
        "timeout": Outcome.RETRY,
        "operational": Outcome.RETRY,
        "interface": Outcome.RETRY,
        "data": Outcome.PERMANENT,
        "integrity": Outcome.PERMANENT,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset({"unavailable", "refused", "timeout", "operational", "interface"})

    def delivery(self) -> Delivery:
        return in_app_delivery()

    async def test_stores_and_announces(self, provider: InAppProvider, counterpart: MemoryInbox) -> None:
        delivery = self.delivery()
        result = await provider.send(delivery)
        assert result.provider_message_id == str(delivery.delivery_id)
        ((user_id, message),) = counterpart.announced
        assert user_id == delivery.user_id
        assert message == {
            "type": "notification",
            "id": str(delivery.delivery_id),
            "notification_id": str(delivery.notification_id),
            "category": "general",
            "created_at": delivery.created_at.isoformat(),
            "title": SUBJECT,
            "body": TEXT,
            "action_url": "https://acme.example/orders/1",
        }

    async def test_a_repeat_stores_nothing_and_says_it_again(
        self, provider: InAppProvider, counterpart: MemoryInbox
    ) -> None:
        delivery = self.delivery()
        results = [await provider.send(delivery) for _ in range(2)]
        assert {result.outcome for result in results} == {Outcome.SENT}
        assert len(counterpart.rows) == 1
        assert [message["id"] for _, message in counterpart.announced] == [str(delivery.delivery_id)] * 2

    async def test_without_redis_it_is_sent_all_the_same(
        self, provider: InAppProvider, counterpart: MemoryInbox
    ) -> None:
        counterpart.misbehave("redis")
        delivery = self.delivery()
        with capture_logs() as logs:
            result = await provider.send(delivery)
        assert result.outcome is Outcome.SENT
        assert [entry["event"] for entry in logs] == ["inbox_announcement_failed"]
        assert not [secret for secret in (*SECRETS, "password", delivery.user_id) if secret in repr(logs)]

    async def test_options_of_a_vendor_are_not_for_it(self, provider: InAppProvider) -> None:
        result = await provider.send(in_app_delivery(options=Options(provider={"asm": {"group_id": 1}})))
        assert result.outcome is Outcome.SENT
