"""Two vendors in a chain, each a server of its own: when one is in trouble the other carries the mail."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from models.enums import Channel
from streams.providers.sendgrid import SendGridProvider
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import API_KEY, settings
from tests.contracts.mail_server import MailServer
from tests.contracts.sendgrid_server import SendGridServer
from tests.fixtures.service import Service, a_request

_DELIVERIES = "SELECT provider, status, attempts FROM notification_deliveries WHERE notification_id = ANY(:ids)"


@dataclass
class Vendors:
    """The two servers."""

    sendgrid: SendGridServer
    smtp: MailServer

    def taken(self) -> Counter[str]:
        """How often each delivery was taken, by whomever."""
        return Counter(self.sendgrid.taken() + self.smtp.taken())


@asynccontextmanager
async def mailing(service: Service) -> AsyncIterator[Vendors]:
    """A worker that sends by SendGrid, and by SMTP where that fails."""
    vendors = Vendors(SendGridServer(), MailServer())
    await vendors.sendgrid.start()
    await vendors.smtp.start()
    chain = (
        SendGridProvider(settings(sendgrid_api_key=API_KEY, sendgrid_base_url=vendors.sendgrid.url)),
        SmtpProvider(settings(smtp_host="127.0.0.1", smtp_port=vendors.smtp.port)),
    )
    try:
        async with service.worker(providers={Channel.EMAIL: chain}):
            yield vendors
    finally:
        for provider in chain:
            await provider.close()
        await vendors.smtp.stop()
        await vendors.sendgrid.stop()


async def publish(service: Service, count: int) -> list[UUID]:
    requests = [a_request() for _ in range(count)]
    for request in requests:
        await service.publish(request)
    return [UUID(request["id"]) for request in requests]


async def sent(service: Service, ids: list[UUID], *, within_seconds: float = 30.0) -> Counter[tuple[str, int]]:
    """Once all are sent: by whom, and with how many attempts."""
    async with asyncio.timeout(within_seconds):
        while True:
            rows = await service.fetch(_DELIVERIES, ids=ids)
            if len(rows) == len(ids) and {row.status for row in rows} == {"sent"}:
                return Counter((row.provider, row.attempts) for row in rows)
            await asyncio.sleep(0.05)


async def until_taken_by(service: Service, provider: str, *, within_seconds: float = 30.0) -> None:
    """Publishes one after the other until this provider takes one."""
    async with asyncio.timeout(within_seconds):
        while [by for by, _ in await sent(service, await publish(service, 1))] != [provider]:
            await asyncio.sleep(0.2)


@pytest.mark.parametrize("trouble", ["401", "503", "429"])
async def test_the_second_carries_all_until_the_first_is_well_again(service: Service, trouble: str) -> None:
    async with mailing(service) as vendors:
        assert await sent(service, await publish(service, 5)) == {("sendgrid", 1): 5}
        vendors.sendgrid.misbehave(trouble)
        if trouble == "429":
            vendors.sendgrid.headers = {"Retry-After": "2"}
        assert await sent(service, await publish(service, 60)) == {("smtp", 1): 60}
        vendors.sendgrid.behave()
        await until_taken_by(service, "sendgrid")
        assert await sent(service, await publish(service, 20)) == {("sendgrid", 1): 20}
        assert set(vendors.taken().values()) == {1}


async def test_an_endless_500_of_the_first_burns_no_attempt(service: Service) -> None:
    async with mailing(service) as vendors:
        vendors.sendgrid.misbehave("500")
        assert await sent(service, await publish(service, 80)) == {("smtp", 1): 80}
        assert set(vendors.taken().values()) == {1}


async def test_when_both_refuse_us_all_wait_and_none_is_lost(service: Service) -> None:
    async with mailing(service) as vendors:
        vendors.sendgrid.misbehave("401")
        vendors.smtp.misbehave("MAIL 535 5.7.8 credentials refused")
        with capture_logs() as logs:
            ids = await publish(service, 40)
            async with asyncio.timeout(20):
                while len([log for log in logs if log["event"] == "provider held"]) < 2:
                    await asyncio.sleep(0.05)
        assert {(log["provider"], log["reason"]) for log in logs if log["event"] == "provider held"} == {
            ("sendgrid", "broken"),
            ("smtp", "broken"),
        }
        assert vendors.taken() == {}
        vendors.smtp.behave()
        assert await sent(service, ids) == {("smtp", 1): 40}
        assert set(vendors.taken().values()) == {1}
        assert await service.fetch("SELECT 1 FROM delivery_failures WHERE notification_id = ANY(:ids)", ids=ids) == []


async def test_what_only_the_first_can_do_waits_for_it_and_burns_nothing(service: Service) -> None:
    only_sendgrid = a_request(options={"provider": {"ip_pool_name": "receipts"}})
    notification = UUID(only_sendgrid["id"])
    async with mailing(service) as vendors:
        vendors.sendgrid.misbehave("401")
        await sent(service, await publish(service, 3))
        await service.publish(only_sendgrid)
        assert await sent(service, await publish(service, 10)) == {("smtp", 1): 10}
        vendors.sendgrid.behave()
        assert await sent(service, [notification]) == {("sendgrid", 1): 1}
        assert set(vendors.taken().values()) == {1}
