"""The SES provider against moto, and against botocore's own idea of a request."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any, ClassVar, cast

import botocore.session
import pytest
from botocore.validate import ParamValidator

from models.deliveries import Delivery
from models.enums import Outcome, Status
from models.errors import Refused
from models.requests import Options
from streams.providers.aws_sdk import AwsError, read_error
from streams.providers.base import Reach, UnsupportedFeature
from streams.providers.ses import SesProvider
from tests.contracts.aws_server import REGION, AwsServer, Moto, credentials
from tests.contracts.deliveries import FROM, HTML, SUBJECT, TEXT, TO, email_delivery, email_options, settings
from tests.contracts.file_server import PDF, GivenFiles, with_files
from tests.contracts.provider_contract import ProviderContract

NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
def moto() -> Iterator[Moto]:
    moto = Moto()
    yield moto
    moto.stop()


@pytest.fixture
async def counterpart(moto: Moto) -> AsyncIterator[AwsServer]:
    moto.reset("news@acme.example", "acme.example")
    server = AwsServer(moto, service="ses")
    await server.start()
    yield server
    await server.stop()


def ses_provider(server: AwsServer, *, secret: Any = None, **given: Any) -> SesProvider:
    fields = {"aws_ses_region": REGION, "aws_endpoint_url": server.url, "provider_timeout_seconds": 3.0, **given}
    return SesProvider(settings(**fields), credentials=secret or credentials(), clock=lambda: NOW)


@pytest.fixture
async def provider(counterpart: AwsServer) -> AsyncIterator[SesProvider]:
    provider = ses_provider(counterpart)
    yield provider
    await provider.close()


def raw(body: bytes) -> EmailMessage:
    """The mail within a request."""
    data = base64.b64decode(json.loads(body)["Content"]["Raw"]["Data"])
    return cast(EmailMessage, message_from_bytes(data, policy=policy.default))


class TestSes(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "301": Outcome.BROKEN,
        "307": Outcome.BROKEN,
        "400": Outcome.PERMANENT,
        "400 BadRequestException": Outcome.PERMANENT,
        "400 ValidationException": Outcome.PERMANENT,
        "400 MessageRejected": Outcome.PERMANENT,
        "413 RequestEntityTooLargeException": Outcome.PERMANENT,
        "400 AccountSuspendedException": Outcome.BROKEN,
        "400 SendingPausedException": Outcome.BROKEN,
        "400 MailFromDomainNotVerifiedException": Outcome.BROKEN,
        "404 NotFoundException": Outcome.BROKEN,
        "404": Outcome.BROKEN,
        "401": Outcome.BROKEN,
        "403": Outcome.BROKEN,
        "403 AccessDeniedException": Outcome.BROKEN,
        "403 UnrecognizedClientException": Outcome.BROKEN,
        "403 InvalidSignatureException": Outcome.BROKEN,
        "403 ExpiredTokenException": Outcome.BROKEN,
        "400 InvalidClientTokenId": Outcome.BROKEN,
        "429 TooManyRequestsException": Outcome.RETRY,
        "400 ThrottlingException": Outcome.RETRY,
        "400 LimitExceededException": Outcome.RETRY,
        "429": Outcome.RETRY,
        "408": Outcome.RETRY,
        "500 InternalServerErrorException": Outcome.RETRY,
        "500": Outcome.RETRY,
        "502": Outcome.RETRY,
        "503 ServiceUnavailable": Outcome.RETRY,
        "reset": Outcome.AMBIGUOUS,
        "cut": Outcome.AMBIGUOUS,
        "cut_body": Outcome.AMBIGUOUS,
        "garbage": Outcome.AMBIGUOUS,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset(
        {
            "429 TooManyRequestsException",
            "400 ThrottlingException",
            "400 LimitExceededException",
            "429",
            "502",
            "503 ServiceUnavailable",
            "reset",
            "cut",
            "cut_body",
            "garbage",
        }
    )

    def delivery(self) -> Delivery:
        return email_delivery()

    async def test_the_request_is_the_message(self, provider: SesProvider, counterpart: AwsServer) -> None:
        options = email_options(
            from_="Björn <bjorn@acme.example>",
            reply_to="help@acme.example",
            cc=("boss@example.com", TO),
            headers={"X-Campaign": "späte Grüße", "List-Unsubscribe": "<https://acme.example/u/1>"},
            tags=("invoice",),
        )
        delivery = email_delivery(options=options, generation=1, attempt=3)
        result = await provider.send(delivery)
        assert result.outcome is Outcome.SENT, result
        (mail,) = counterpart.moto.mails()
        assert result.provider_message_id == mail["id"]
        sent = json.loads(counterpart.bodies[0])
        assert sent["Destination"] == {"ToAddresses": [TO], "CcAddresses": ["boss@example.com"]}
        assert sent["EmailTags"] == [
            {"Name": "delivery_id", "Value": str(delivery.delivery_id)},
            {"Name": "notification_id", "Value": str(delivery.notification_id)},
            {"Name": "generation", "Value": "1"},
            {"Name": "attempt", "Value": "3"},
        ]
        message = raw(counterpart.bodies[0])
        assert (message["From"], message["To"], message["Cc"]) == (
            "Björn <bjorn@acme.example>",
            TO,
            "boss@example.com",
        )
        assert (message["Subject"], message["Reply-To"]) == (SUBJECT, "help@acme.example")
        assert (message["X-Campaign"], message["X-Tag"]) == ("späte Grüße", "invoice")
        assert message["List-Unsubscribe"] == "<https://acme.example/u/1>"
        parts = {part.get_content_type(): part.get_content() for part in message.iter_parts()}
        assert {name: text.replace("\r\n", "\n") for name, text in parts.items()} == {
            "text/plain": TEXT,
            "text/html": HTML,
        }

    async def test_files_travel_in_the_message(self, counterpart: AwsServer) -> None:
        given = settings(aws_ses_region=REGION, aws_endpoint_url=counterpart.url)
        provider = SesProvider(given, attachments=GivenFiles(), credentials=credentials(), clock=lambda: NOW)
        options = with_files(("https://files.example/1", "Rechnung März.pdf"))
        result = await provider.send(email_delivery(options=options))
        await provider.close()
        assert result.outcome is Outcome.SENT
        (file,) = raw(counterpart.bodies[-1]).iter_attachments()
        assert (file.get_filename(), file.get_content()) == ("Rechnung März.pdf", PDF)

    async def test_the_request_is_what_botocore_would_send(self, counterpart: AwsServer) -> None:
        own = {"TenantName": "acme", "FromEmailAddressIdentityArn": "arn:aws:ses:us-east-1:1:identity/acme.example"}
        provider = ses_provider(counterpart, aws_ses_configuration_set="events")
        options = email_options(cc=("boss@example.com",)).model_copy(update={"provider": own})
        assert (await provider.send(email_delivery(options=options))).outcome is Outcome.SENT
        await provider.close()
        (body,) = map(json.loads, counterpart.bodies)
        body["Content"]["Raw"]["Data"] = base64.b64decode(body["Content"]["Raw"]["Data"])
        operation = botocore.session.get_session().get_service_model("sesv2").operation_model("SendEmail")
        assert not ParamValidator().validate(body, operation.input_shape).has_errors()
        assert body["ConfigurationSetName"] == "events"
        assert {name: body[name] for name in own} == own
        assert (operation.http["method"], operation.http["requestUri"]) == ("POST", counterpart.paths[0])

    async def test_a_request_s_configuration_set_comes_first(self, counterpart: AwsServer) -> None:
        provider = ses_provider(counterpart, aws_ses_configuration_set="events")
        delivery = email_delivery(options=Options(provider={"ConfigurationSetName": "own"}))
        await provider.send(delivery)
        counterpart.says(404, "NotFoundException", "Configuration set <own> does not exist.")
        result = await provider.send(delivery)
        usual = await provider.send(email_delivery())
        await provider.close()
        assert json.loads(counterpart.bodies[0])["ConfigurationSetName"] == "own"
        assert (result.outcome, usual.outcome) == (Outcome.PERMANENT, Outcome.BROKEN)

    @pytest.mark.parametrize("own", [{"Destination": {}}, {"EmailTags": []}, {"From: eve@example.com": 1}])
    async def test_what_is_not_passed_on_is_refused(
        self, provider: SesProvider, counterpart: AwsServer, own: dict[str, Any]
    ) -> None:
        with pytest.raises(UnsupportedFeature):
            await provider.send(email_delivery(options=Options(provider=own)))
        assert counterpart.bodies == []

    async def test_a_wrong_type_is_permanent(self, provider: SesProvider) -> None:
        result = await provider.send(email_delivery(options=Options(provider={"TenantName": 7})))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, "refused options.provider.TenantName")
        assert result.reach is Reach.NOT_ASKED

    @pytest.mark.parametrize(
        ("status", "code", "text", "own", "usual"),
        [
            (
                400,
                "MessageRejected",
                "Email address is not verified. The following identities failed the check in region US-EAST-1: {}",
                Outcome.PERMANENT,
                Outcome.BROKEN,
            ),
            (
                403,
                "AccessDeniedException",
                "User `arn:aws:iam::1:user/x' is not authorized to perform `ses:SendEmail' on resource "
                "`arn:aws:ses:us-east-1:1:identity/{}'",
                Outcome.PERMANENT,
                Outcome.BROKEN,
            ),
            (400, "MailFromDomainNotVerifiedException", "The domain isn't verified", Outcome.PERMANENT, Outcome.BROKEN),
            (403, "AccessDeniedException", "explicit deny in a policy", Outcome.BROKEN, Outcome.BROKEN),
            (
                400,
                "MessageRejected",
                f"Email address is not verified. The following identities failed the check: {TO}",
                Outcome.PERMANENT,
                Outcome.PERMANENT,
            ),
        ],
    )
    async def test_a_sender_s_own_fault_breaks_nothing_for_others(
        self,
        provider: SesProvider,
        counterpart: AwsServer,
        status: int,
        code: str,
        text: str,
        own: Outcome,
        usual: Outcome,
    ) -> None:
        counterpart.says(status, code, text.format("eve@elsewhere.example"))
        chosen = await provider.send(email_delivery(options=email_options(from_="eve@elsewhere.example")))
        counterpart.says(status, code, text.format("acme.example"))
        by_default = await provider.send(email_delivery())
        assert (chosen.outcome, by_default.outcome) == (own, usual)
        assert "elsewhere" not in repr(chosen)

    async def test_moto_s_own_refusal_is_the_request_s(self, provider: SesProvider) -> None:
        result = await provider.send(email_delivery(options=email_options(from_="eve@elsewhere.example")))
        assert result.outcome is Outcome.PERMANENT

    async def test_waits_as_asked(self, provider: SesProvider, counterpart: AwsServer) -> None:
        counterpart.says(429, "TooManyRequestsException", headers={"Retry-After": "20"})
        result = await provider.send(self.delivery())
        assert (result.outcome, result.retry_after, result.reason) == (
            Outcome.RETRY,
            timedelta(seconds=20),
            "TooManyRequestsException",
        )

    async def test_connections_are_used_again(self, provider: SesProvider, counterpart: AwsServer) -> None:
        for _ in range(5):
            await provider.send(self.delivery())
        assert len(counterpart.connections) == 1

    async def test_silence_is_ambiguous(self, counterpart: AwsServer) -> None:
        provider = ses_provider(counterpart, provider_timeout_seconds=0.3)
        counterpart.misbehave("hang")
        result = await provider.send(self.delivery())
        await provider.close()
        assert (result.outcome, result.reason, result.reach) == (Outcome.AMBIGUOUS, "timeout", Reach.AWAY)

    async def test_a_large_mail_goes_through(self, provider: SesProvider, counterpart: AwsServer) -> None:
        content = {"subject": "big", "text": "x" * 3_000_000}
        assert (await provider.send(email_delivery(content=content))).outcome is Outcome.SENT
        assert len(counterpart.bodies[0]) > 4_000_000

    async def test_wrong_keys_are_broken(self, counterpart: AwsServer) -> None:
        provider = ses_provider(counterpart, secret=credentials("another"))
        result = await provider.send(self.delivery())
        await provider.close()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "SignatureDoesNotMatch")

    async def test_a_role_s_token_is_signed_along(self, counterpart: AwsServer) -> None:
        provider = ses_provider(counterpart, secret=credentials(token="a-session-token"))
        assert (await provider.send(self.delivery())).outcome is Outcome.SENT
        await provider.close()

    @pytest.mark.parametrize("answer", ['{"MessageId": "a b"}', "{}", "[]", "", "nonsense"])
    async def test_an_odd_yes_is_a_yes(self, provider: SesProvider, counterpart: AwsServer, answer: str) -> None:
        counterpart.answer = (200, answer, {})
        result = await provider.send(self.delivery())
        assert (result.outcome, result.provider_message_id) == (Outcome.SENT, None)

    async def test_closing_ends_what_hangs(self, provider: SesProvider, counterpart: AwsServer) -> None:
        counterpart.misbehave("hang")
        hanging = asyncio.ensure_future(provider.send(self.delivery()))
        await asyncio.wait({hanging}, timeout=0.1)
        await provider.close()
        assert (await hanging).outcome is Outcome.AMBIGUOUS


@pytest.mark.parametrize(
    ("events", "status", "detail"),
    [
        (["SEND"], Status.SENT, None),
        (["SEND", "DELIVERY"], Status.DELIVERED, None),
        (["SEND", "DELIVERY", "OPEN", "CLICK"], Status.CLICKED, None),
        (["SEND", "DELIVERY", "OPEN", "COMPLAINT"], Status.COMPLAINED, None),
        (["SEND", "BOUNCE"], Status.BOUNCED, "PERMANENT"),
        (["SEND", "DELIVERY_DELAY"], Status.SENT, None),
        (["REJECT"], Status.FAILED, None),
        (["SOMETHING_NEW"], None, None),
        ([], None, None),
    ],
)
async def test_status_by_insights(
    provider: SesProvider, counterpart: AwsServer, events: list[str], status: Status | None, detail: str | None
) -> None:
    told = [
        {"Type": name, "Details": {"Bounce": {"BounceType": "PERMANENT", "DiagnosticCode": f"550 {TO}"}}}
        if name == "BOUNCE"
        else {"Type": name, "Timestamp": 1790000000}
        for name in events
    ]
    counterpart.answer = (200, json.dumps({"Insights": [{"Destination": TO, "Events": told}]}), {})
    found = await provider.get_status("0100018f-1-000000")
    assert (found.status, found.detail) == (status, detail)
    assert counterpart.paths == ["/v2/email/insights/0100018f-1-000000/"]


@pytest.mark.parametrize("answer", ["", "[]", '{"Insights": 7}', '{"Insights": [{"Events": [7]}]}'])
async def test_an_odd_status_is_unknown(provider: SesProvider, counterpart: AwsServer, answer: str) -> None:
    counterpart.answer = (200, answer, {})
    assert (await provider.get_status("1")).status is None


async def test_no_request_for_an_odd_message_id(provider: SesProvider, counterpart: AwsServer) -> None:
    assert (await provider.get_status("../../identities")).status is None
    assert counterpart.paths == []


async def test_a_refused_status_is_unknown(provider: SesProvider, counterpart: AwsServer) -> None:
    counterpart.says(404, "NotFoundException")
    found = await provider.get_status("0100018f-1-000000")
    assert (found.status, found.detail) == (None, "NotFoundException")


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({}, "AWS_SES_REGION: is not set"),
        ({"aws_ses_region": "moon-1"}, "AWS_SES_REGION: is no region"),
        ({"aws_ses_region": REGION, "aws_endpoint_url": "ftp://aws.test"}, "AWS_ENDPOINT_URL"),
        ({"aws_ses_region": REGION, "aws_endpoint_url": "http://aws.test/path"}, "AWS_ENDPOINT_URL"),
        ({"aws_ses_region": REGION, "email_from": "a@b.example, c@d.example"}, "EMAIL_FROM"),
    ],
)
def test_a_wrong_setting_is_said_at_the_start(given: dict[str, Any], named: str) -> None:
    with pytest.raises(Refused, match=named):
        SesProvider(settings(**given))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff\xfe", b"<html>", b"null", b"{}"])
@pytest.mark.parametrize("protocol", ["rest-json", "query"])
def test_an_error_that_is_not_aws_s_has_no_name(protocol: str, body: bytes) -> None:
    error = read_error(protocol, 400, {}, body)
    assert error == AwsError() or error.code == "400"


def test_the_sender_of_the_tests_is_known() -> None:
    assert "news@acme.example" in FROM
