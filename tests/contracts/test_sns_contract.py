"""The SNS provider against moto, and against botocore's own idea of a request."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from urllib.parse import parse_qsl
from uuid import uuid4

import botocore.session
import pytest
from botocore.serialize import create_serializer

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.requests import Options, SmsOptions
from streams.providers.base import Reach, UnsupportedFeature
from streams.providers.sns import SnsProvider
from tests.contracts.aws_server import REGION, AwsServer, Moto, credentials
from tests.contracts.deliveries import email_delivery, settings
from tests.contracts.provider_contract import ProviderContract

NOW = datetime.now(UTC)
PHONE = "+14255550156"


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    moto = Moto()
    yield moto
    moto.stop()


@pytest.fixture
async def counterpart(moto: Moto) -> AsyncIterator[AwsServer]:
    moto.reset()
    server = AwsServer(moto, service="sns")
    await server.start()
    yield server
    await server.stop()


def sns_provider(server: AwsServer, **given: Any) -> SnsProvider:
    fields = {"aws_sns_region": REGION, "aws_endpoint_url": server.url, "provider_timeout_seconds": 3.0, **given}
    return SnsProvider(settings(**fields), credentials=credentials(), clock=lambda: NOW)


@pytest.fixture
async def provider(counterpart: AwsServer) -> AsyncIterator[SnsProvider]:
    provider = sns_provider(counterpart)
    yield provider
    await provider.close()


def sms(**given: Any) -> Delivery:
    """An SMS whose text ends in its delivery id, as moto keeps no attributes."""
    delivery_id = uuid4()
    content = {"text": f"Ada, your code is 314159. Grüße & more: {delivery_id}"}
    return email_delivery(
        **{"delivery_id": delivery_id, "channel": Channel.SMS, "to": PHONE, "content": content, **given}
    )


def attributes(body: bytes) -> dict[str, str]:
    """The message attributes of a request."""
    fields = dict(parse_qsl(body.decode(), strict_parsing=True))
    return {
        value: fields[f"{name.removesuffix('Name')}Value.StringValue"]
        for name, value in fields.items()
        if name.endswith(".Name")
    }


class TestSns(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "301": Outcome.BROKEN,
        "400": Outcome.PERMANENT,
        "400 InvalidParameter": Outcome.PERMANENT,
        "400 ParameterValueInvalid": Outcome.PERMANENT,
        "400 ValidationException": Outcome.PERMANENT,
        "400 OptedOut": Outcome.TARGET_DEAD,
        "403 AuthorizationError": Outcome.BROKEN,
        "403 InvalidClientTokenId": Outcome.BROKEN,
        "403 SignatureDoesNotMatch": Outcome.BROKEN,
        "403 ExpiredToken": Outcome.BROKEN,
        "403 InvalidSecurity": Outcome.BROKEN,
        "404": Outcome.BROKEN,
        "429 Throttled": Outcome.RETRY,
        "400 Throttling": Outcome.RETRY,
        "429": Outcome.RETRY,
        "500 InternalError": Outcome.RETRY,
        "500": Outcome.RETRY,
        "503 ServiceUnavailable": Outcome.RETRY,
        "reset": Outcome.AMBIGUOUS,
        "cut": Outcome.AMBIGUOUS,
        "cut_body": Outcome.AMBIGUOUS,
        "garbage": Outcome.AMBIGUOUS,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset(
        {"429 Throttled", "400 Throttling", "429", "503 ServiceUnavailable", "reset", "cut", "cut_body", "garbage"}
    )

    def delivery(self) -> Delivery:
        return sms()

    async def test_the_request_is_what_botocore_would_send(self, provider: SnsProvider, counterpart: AwsServer) -> None:
        delivery = sms()
        result = await provider.send(delivery)
        (message,) = counterpart.moto.messages()
        assert (message["message"], message["phone_number"]) == (delivery.content["text"], PHONE)
        assert result.provider_message_id == (message.get("id") or message.get("message_id"))
        operation = botocore.session.get_session().get_service_model("sns").operation_model("Publish")
        same = create_serializer("query").serialize_to_request(
            {
                "PhoneNumber": PHONE,
                "Message": delivery.content["text"],
                "MessageAttributes": {
                    "delivery_id": {"DataType": "String", "StringValue": str(delivery.delivery_id)},
                    "AWS.SNS.SMS.SMSType": {"DataType": "String", "StringValue": "Transactional"},
                },
            },
            operation,
        )
        assert dict(parse_qsl(counterpart.bodies[0].decode())) == same["body"]
        assert same["headers"]["Content-Type"] == "application/x-www-form-urlencoded; charset=utf-8"

    async def test_what_only_sns_has_is_passed_on(self, provider: SnsProvider, counterpart: AwsServer) -> None:
        own = {
            "AWS.SNS.SMS.SMSType": "Promotional",
            "AWS.SNS.SMS.MaxPrice": "0.50",
            "AWS.MM.SMS.EntityId": "1101",
            "AWS.MM.SMS.TemplateId": "1107",
        }
        assert (await provider.send(sms(options=Options(provider=own)))).outcome is Outcome.SENT
        found = attributes(counterpart.bodies[0])
        assert {name: found[name] for name in own} == own

    @pytest.mark.parametrize("own", [{"TopicArn": "arn"}, {"AWS.SNS.SMS.SenderID": "EVE"}, {"Message": "x"}])
    async def test_what_is_not_passed_on_is_refused(
        self, provider: SnsProvider, counterpart: AwsServer, own: dict[str, Any]
    ) -> None:
        with pytest.raises(UnsupportedFeature):
            await provider.send(sms(options=Options(provider=own)))
        assert counterpart.bodies == []

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ({"to": None}, "refused recipient.phone"),
            ({"to": "5550156"}, "refused recipient.phone"),
            ({"content": {"title": "none"}}, "refused content.text"),
            ({"content": {"text": "x" * 1601}}, "refused content.text"),
            ({"content": {"text": "\ud800"}}, "refused content.text"),
            ({"options": Options(sms=SmsOptions(sender="ACME BANK"))}, "refused options.sms.sender"),
            ({"options": Options(sms=SmsOptions(sender="ACMEBANKINGS"))}, "refused options.sms.sender"),
            (
                {"options": Options(provider={"AWS.SNS.SMS.SMSType": "Free"})},
                "refused options.provider.AWS.SNS.SMS.SMSType",
            ),
        ],
    )
    async def test_what_sns_would_not_take_is_permanent(
        self, provider: SnsProvider, counterpart: AwsServer, given: dict[str, Any], reason: str
    ) -> None:
        result = await provider.send(sms(**given))
        assert (result.outcome, result.reason, result.reach) == (Outcome.PERMANENT, reason, Reach.NOT_ASKED)
        assert counterpart.bodies == []

    @pytest.mark.parametrize(
        ("to", "sender", "attribute", "value"),
        [
            (PHONE, None, "AWS.MM.SMS.OriginationNumber", "+15005550006"),
            ("+4915112345678", None, "AWS.SNS.SMS.SenderID", "ACME"),
            ("+4915112345678", "OTHER", "AWS.SNS.SMS.SenderID", "OTHER"),
            ("+4915112345678", "12345", "AWS.MM.SMS.OriginationNumber", "12345"),
            ("+33612345678", None, None, None),
            ("+447400123456", None, None, None),
        ],
    )
    async def test_the_sender_is_the_request_s_or_the_country_s(
        self, counterpart: AwsServer, to: str, sender: str | None, attribute: str | None, value: str | None
    ) -> None:
        senders = {"US": "+15005550006", "DE": "ACME", "GB": "MG00000000000000000000000000000000"}
        provider = sns_provider(counterpart, sms_senders=senders)
        options = Options(sms=SmsOptions(sender=sender)) if sender else Options()
        assert (await provider.send(sms(to=to, options=options))).outcome is Outcome.SENT
        await provider.close()
        found = attributes(counterpart.bodies[0])
        chosen = {name: found[name] for name in found if "Sender" in name or "Origination" in name}
        assert chosen == ({attribute: value} if attribute else {})

    async def test_a_configured_sender_s_fault_burns_no_message(self, counterpart: AwsServer) -> None:
        provider = sns_provider(counterpart, sms_senders={"US": "+15005550006"})
        counterpart.says(400, "InvalidParameter", "Invalid parameter: AWS.MM.SMS.OriginationNumber Reason: not yours")
        by_default = await provider.send(sms())
        chosen = await provider.send(sms(options=Options(sms=SmsOptions(sender="+15005550007"))))
        await provider.close()
        assert (by_default.outcome, chosen.outcome) == (Outcome.BROKEN, Outcome.PERMANENT)

    async def test_who_opted_out_is_dead(self, provider: SnsProvider, counterpart: AwsServer) -> None:
        counterpart.misbehave("400 OptedOut")
        result = await provider.send(sms())
        assert (result.outcome, result.reason) == (Outcome.TARGET_DEAD, "opted_out")

    async def test_waits_as_asked(self, provider: SnsProvider, counterpart: AwsServer) -> None:
        counterpart.says(429, "Throttled", headers={"Retry-After": "20"})
        result = await provider.send(sms())
        assert (result.outcome, result.retry_after) == (Outcome.RETRY, timedelta(seconds=20))

    async def test_email_s_options_are_not_its_to_judge(self, provider: SnsProvider) -> None:
        options = Options.model_validate(
            {"email": {"attachments": ({"url": "https://acme.example/a.pdf", "filename": "a.pdf"},)}}
        )
        assert (await provider.send(sms(options=options))).outcome is Outcome.SENT


def test_a_missing_region_is_said_at_the_start() -> None:
    with pytest.raises(Refused, match="AWS_SNS_REGION: is not set"):
        SnsProvider(settings())
