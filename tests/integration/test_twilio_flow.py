"""SMS by Twilio from request to receipt: its callbacks find their delivery, and STOP silences a number until START."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from uuid import UUID, uuid4

import pytest
from twilio.request_validator import RequestValidator

from models.enums import Channel
from streams.providers.twilio import TwilioProvider
from tests.contracts.twilio_server import ACCOUNT, TAKEN, TOKEN, TwilioServer
from tests.fixtures.api import RunningApi, an_api
from tests.fixtures.service import Service, a_request, a_service
from tests.fixtures.stack import Databases, Identity

PUBLIC = "https://notify.example.com"
SENDER = "+15005550006"
LANES = {"requests-normal", "send-sms-normal", "provider-events"}


@dataclass
class World:
    api: RunningApi
    twilio: TwilioServer

    @property
    def service(self) -> Service:
        return self.api.service

    async def write_to(self, phone: str) -> UUID:
        request = a_request(channel="sms", content={"text": "Hello ж"}, recipient={"phone": phone})
        await self.service.publish(request)
        return UUID(request["id"])

    async def calls_back(self, url: str, **fields: str) -> int:
        """As Twilio does, from the address that it was given."""
        assert url.startswith(PUBLIC)
        form = {"AccountSid": ACCOUNT, "MessageSid": TAKEN, **fields}
        signature = RequestValidator(TOKEN).compute_signature(url, form)
        answer = await self.api.client("nobody").post(
            url.removeprefix(PUBLIC), data=form, headers={"X-Twilio-Signature": signature}
        )
        return answer.status_code

    async def says(self, phone: str, word: str) -> None:
        """A person writes to our number."""
        sid = f"SM{uuid4().hex}"
        fields = {"MessageSid": sid, "SmsStatus": "received", "From": phone, "To": SENDER, "Body": word}
        assert await self.calls_back(f"{PUBLIC}/api/v1/webhooks/twilio", **fields) == 204

    async def listed(self, phone: str, *reasons: str, within_seconds: float = 15.0) -> None:
        """Waits until the number is listed for these reasons, or for none."""
        async with asyncio.timeout(within_seconds):
            while True:
                rows = await self.service.fetch("SELECT reason FROM unsubscribe_lists WHERE address = :to", to=phone)
                if [row.reason for row in rows] == list(reasons):
                    return
                await asyncio.sleep(0.02)


@pytest.fixture
async def world(
    kafka: str, postgres: Databases, migrated: str, valkey: str, identity: Identity
) -> AsyncIterator[World]:
    server = TwilioServer()
    await server.start()
    keys = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, "twilio_from": SENDER}
    more = {**keys, "twilio_base_url": server.url, "public_url": PUBLIC}
    async with a_service(kafka, postgres, migrated, valkey, **more) as service:
        provider = TwilioProvider(service.settings)
        chains = {Channel.SMS: (provider,)}
        async with an_api(service, identity) as api, service.worker(providers=chains, only=LANES):
            yield World(api, server)
        await provider.close()
    await server.stop()


async def test_a_receipt_finds_its_delivery_by_the_address_it_was_given(world: World) -> None:
    notification = await world.write_to("+4915112345678")
    await world.service.until(notification, "sent")
    [form] = world.twilio.forms
    for _ in range(2):
        assert await world.calls_back(form["StatusCallback"], MessageStatus="delivered") == 204
    assert await world.calls_back(form["StatusCallback"], MessageStatus="sent") == 204
    await world.service.until(notification, "delivered")
    shown = (await world.api.sender.get(f"/api/v1/notifications/{notification}")).json()
    [delivery] = shown["deliveries"]
    assert (delivery["provider"], delivery["provider_message_id"]) == ("twilio", TAKEN)
    assert (delivery["status"], delivery["segments"]) == ("delivered", 1)


async def test_a_carrier_s_refusal_fails_what_was_sent(world: World) -> None:
    notification = await world.write_to("+4915112345679")
    await world.service.until(notification, "sent")
    url = world.twilio.forms[0]["StatusCallback"]
    assert await world.calls_back(url, MessageStatus="undelivered", ErrorCode="30003", To="+4915112345679") == 204
    await world.service.until(notification, "failed")


async def test_stop_silences_a_number_until_start(world: World) -> None:
    phone = "+4915112345680"
    await world.says(phone, "Stop!")
    await world.listed(phone, "opted_out")
    await world.service.until(await world.write_to(phone), "suppressed")
    await world.says(phone, "START")
    await world.listed(phone)
    await world.service.until(await world.write_to(phone), "sent")
    assert len(world.twilio.forms) == 1


async def test_who_twilio_knows_to_have_opted_out_is_not_tried_again(world: World) -> None:
    phone = "+4915112345681"
    world.twilio.misbehave("400 21610")
    await world.service.until(await world.write_to(phone), "failed")
    world.twilio.behave()
    await world.listed(phone, "opted_out")
    await world.service.until(await world.write_to(phone), "suppressed")
    assert world.twilio.forms == []
