"""E-mail by SES and SMS by SNS, from request to what AWS tells of them: moto takes them, the door believes SNS."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from models.enums import Channel
from streams.providers.ses import SesProvider
from streams.providers.sns import SnsProvider
from tests.contracts.aws_server import REGION, AwsServer, Moto, credentials
from tests.fixtures.api import RunningApi, an_api
from tests.fixtures.service import Service, a_request, a_service
from tests.fixtures.stack import Databases, Identity
from tests.fixtures.webhooks import KEYS, callback_settings, sns_signed

LANES = {"requests-normal", "send-email-normal", "send-sms-normal", "provider-events"}


@dataclass
class World:
    api: RunningApi
    ses: AwsServer
    sns: AwsServer

    @property
    def service(self) -> Service:
        return self.api.service

    async def write_to(self, **recipient: str) -> UUID:
        channel, content = "email", {"subject": "Hello", "text": "Hello"}
        if "phone" in recipient:
            channel, content = "sms", {"text": f"Hello {uuid4()}"}
        request = a_request(channel=channel, content=content, recipient=recipient)
        await self.service.publish(request)
        return UUID(request["id"])

    async def told(self, door: str, message: dict[str, Any]) -> int:
        """As SNS posts it."""
        signed = sns_signed(
            {
                "Type": "Notification",
                "MessageId": str(uuid4()),
                "TopicArn": KEYS["sns_topic_arn"],
                "Message": json.dumps(message),
                "Timestamp": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z"),
                "SignatureVersion": "2",
                "SigningCertURL": KEYS["sns_cert_url"],
            }
        )
        headers = {"x-amz-sns-message-type": "Notification", "Content-Type": "text/plain; charset=UTF-8"}
        answer = await self.api.client("nobody").post(
            f"/api/v1/webhooks/{door}", content=json.dumps(signed), headers=headers
        )
        return answer.status_code

    def mail(self) -> dict[str, Any]:
        """What SES says of the only mail it has, in its events."""
        [body] = map(json.loads, self.ses.bodies)
        [mail] = self.ses.moto.mails()
        tags = {tag["Name"]: [tag["Value"]] for tag in body["EmailTags"]}
        return {"messageId": mail["id"], "destination": body["Destination"]["ToAddresses"], "tags": tags}

    async def delivery(self, notification: UUID) -> dict[str, Any]:
        shown = (await self.api.sender.get(f"/api/v1/notifications/{notification}")).json()
        [delivery] = shown["deliveries"]
        return dict(delivery)

    async def listed(self, address: str, *reasons: str) -> None:
        """Waits until the address is listed for these reasons."""
        async with asyncio.timeout(15):
            while True:
                rows = await self.service.fetch("SELECT reason FROM unsubscribe_lists WHERE address = :to", to=address)
                if [row.reason for row in rows] == list(reasons):
                    return
                await asyncio.sleep(0.02)


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    moto = Moto()
    yield moto
    moto.stop()


@pytest.fixture
async def world(
    kafka: str, postgres: Databases, migrated: str, valkey: str, identity: Identity, moto: Moto, tmp_path: Path
) -> AsyncIterator[World]:
    moto.reset("news@acme.example")
    ses, sns = AwsServer(moto, service="ses"), AwsServer(moto, service="sns")
    await ses.start()
    await sns.start()
    more = {**callback_settings(tmp_path), "email_from": "Acme <news@acme.example>"}
    more |= {"aws_ses_region": REGION, "aws_sns_region": REGION, "aws_ses_configuration_set": "events"}
    async with a_service(kafka, postgres, migrated, valkey, **more) as service:
        mail = SesProvider(service.settings.model_copy(update={"aws_endpoint_url": ses.url}), credentials=credentials())
        text = SnsProvider(service.settings.model_copy(update={"aws_endpoint_url": sns.url}), credentials=credentials())
        chains = {Channel.EMAIL: (mail,), Channel.SMS: (text,)}
        async with an_api(service, identity) as api, service.worker(providers=chains, only=LANES):
            yield World(api, ses, sns)
        await mail.close()
        await text.close()
    await ses.stop()
    await sns.stop()


async def test_an_e_mail_is_delivered_opened_and_called_spam(world: World) -> None:
    address = f"ada-{uuid4().hex}@example.com"
    notification = await world.write_to(email=address)
    await world.service.until(notification, "sent")
    mail, at = world.mail(), datetime.now(UTC).isoformat()
    assert mail["destination"] == [address]
    assert json.loads(world.ses.bodies[0])["ConfigurationSetName"] == "events"
    delivered = {"eventType": "Delivery", "mail": mail, "delivery": {"timestamp": at, "recipients": [address]}}
    for _ in range(2):
        assert await world.told("ses", delivered) == 204
    await world.service.until(notification, "delivered")
    assert await world.told("ses", {"eventType": "Open", "mail": mail, "open": {"timestamp": at}}) == 204
    await world.service.until(notification, "opened")
    delivery = await world.delivery(notification)
    assert (delivery["provider"], delivery["provider_message_id"]) == ("ses", mail["messageId"])
    spam = {"complainedRecipients": [{"emailAddress": address}], "timestamp": at, "feedbackId": uuid4().hex}
    assert await world.told("ses", {"eventType": "Complaint", "mail": mail, "complaint": spam}) == 204
    await world.service.until(notification, "complained")
    await world.listed(address, "complained")


async def test_an_identity_s_notification_finds_its_mail_by_ses_s_id(world: World) -> None:
    """Those have no tags, and may come beside the configuration set's: told twice, counted once."""
    address = f"bob-{uuid4().hex}@example.com"
    notification = await world.write_to(email=address)
    await world.service.until(notification, "sent")
    mail = world.mail()
    bounce = {
        "bounceType": "Permanent",
        "bounceSubType": "General",
        "bouncedRecipients": [{"emailAddress": address, "status": "5.1.1"}],
        "timestamp": datetime.now(UTC).isoformat(),
        "feedbackId": uuid4().hex,
    }
    bare = {name: value for name, value in mail.items() if name != "tags"}
    assert await world.told("ses", {"notificationType": "Bounce", "mail": bare, "bounce": bounce}) == 204
    await world.service.until(notification, "bounced")
    assert await world.told("sns", {"eventType": "Bounce", "mail": mail, "bounce": bounce}) == 204
    await world.listed(address, "bounced")
    await world.service.until(await world.write_to(email=address), "suppressed")
    rows = await world.service.fetch("SELECT 1 FROM bounce_records WHERE address = :to", to=address)
    assert len(rows) == 1


async def test_an_sms_is_delivered_and_stop_silences_the_number(world: World) -> None:
    phone = "+14255550156"
    notification = await world.write_to(phone=phone)
    await world.service.until(notification, "sent")
    sent = (await world.delivery(notification))["provider_message_id"]
    event = {"eventType": "TEXT_DELIVERED", "messageId": sent, "destinationPhoneNumber": phone, "isFinal": True}
    assert await world.told("sns", event) == 204
    await world.service.until(notification, "delivered")
    stop = {"originationNumber": phone, "messageBody": "STOP", "inboundMessageId": str(uuid4())}
    assert await world.told("sns", stop) == 204
    await world.listed(phone, "opted_out")
    await world.service.until(await world.write_to(phone=phone), "suppressed")
    start = {"originationNumber": phone, "messageBody": "start", "inboundMessageId": str(uuid4())}
    assert await world.told("sns", start) == 204
    await world.listed(phone)
