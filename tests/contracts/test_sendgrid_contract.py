"""The SendGrid provider against the vendor's own OpenAPI document."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sendgrid.helpers.mail import Category, Cc, Content, CustomArg, Header, Mail, Personalization, ReplyTo, To

from models.deliveries import Delivery
from models.enums import Outcome
from models.errors import Refused
from models.requests import Options
from streams.domain.mail_headers import encoded_text
from streams.domain.mime import envelope
from streams.providers.base import Reach, UnsupportedFeature
from streams.providers.sendgrid import SendGridProvider, payload
from tests.contracts.deliveries import (
    API_KEY,
    FROM,
    HTML,
    SUBJECT,
    TEXT,
    TO,
    cases,
    email_delivery,
    email_options,
    settings,
)
from tests.contracts.injection import deliveries
from tests.contracts.mail_server import self_signed
from tests.contracts.provider_contract import ProviderContract
from tests.contracts.sendgrid_server import SendGridServer, complaints

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)


def sendgrid_provider(server: SendGridServer, **given: Any) -> SendGridProvider:
    fields = {"sendgrid_api_key": API_KEY, "sendgrid_base_url": server.url, "provider_timeout_seconds": 2.0, **given}
    return SendGridProvider(settings(**fields), clock=lambda: NOW)


@pytest.fixture
async def counterpart() -> AsyncIterator[SendGridServer]:
    server = SendGridServer()
    await server.start()
    yield server
    await server.stop()
    assert server.complaints == []


@pytest.fixture
async def provider(counterpart: SendGridServer) -> AsyncIterator[SendGridProvider]:
    provider = sendgrid_provider(counterpart)
    yield provider
    await provider.close()


class TestSendGrid(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "301": Outcome.BROKEN,
        "307": Outcome.BROKEN,
        "400": Outcome.PERMANENT,
        "401": Outcome.BROKEN,
        "403": Outcome.BROKEN,
        "404": Outcome.BROKEN,
        "405": Outcome.BROKEN,
        "408": Outcome.RETRY,
        "413": Outcome.PERMANENT,
        "422": Outcome.PERMANENT,
        "429": Outcome.RETRY,
        "500": Outcome.RETRY,
        "503": Outcome.RETRY,
        "599": Outcome.RETRY,
        "reset": Outcome.AMBIGUOUS,
        "cut": Outcome.AMBIGUOUS,
        "cut_body": Outcome.AMBIGUOUS,
        "garbage": Outcome.AMBIGUOUS,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset({"429", "503", "reset", "cut", "cut_body", "garbage"})

    def delivery(self) -> Delivery:
        return email_delivery()

    async def test_the_request_is_the_message(self, provider: SendGridProvider, counterpart: SendGridServer) -> None:
        options = email_options(
            from_="Björn <bjorn@acme.example>",
            reply_to="help@acme.example",
            cc=("boss@example.com", TO),
            headers={"X-Campaign": "späte Grüße"},
            tags=("invoice", "invoice", "q4"),
        )
        delivery = email_delivery(options=options, generation=1, attempt=3)
        result = await provider.send(delivery)
        assert result.provider_message_id == "14c5d75ce93"
        assert counterpart.bodies == [
            {
                "from": {"email": "bjorn@acme.example", "name": "Björn"},
                "reply_to": {"email": "help@acme.example"},
                "subject": SUBJECT,
                "personalizations": [
                    {
                        "to": [{"email": TO}],
                        "cc": [{"email": "boss@example.com"}],
                        "custom_args": {
                            "delivery_id": str(delivery.delivery_id),
                            "notification_id": str(delivery.notification_id),
                            "generation": "1",
                            "attempt": "3",
                        },
                    }
                ],
                "headers": {
                    "X-Notification-ID": str(delivery.notification_id),
                    "X-Campaign": "=?utf-8?b?c3DDpHRlIEdyw7zDn2U=?=",
                },
                "categories": ["invoice", "q4"],
                "content": [{"type": "text/plain", "value": TEXT}, {"type": "text/html", "value": HTML}],
            }
        ]

    async def test_what_only_sendgrid_has_is_passed_on(
        self, provider: SendGridProvider, counterpart: SendGridServer
    ) -> None:
        own = {
            "asm": {"group_id": 7},
            "ip_pool_name": "receipts",
            "mail_settings": {"sandbox_mode": {"enable": True}},
            "tracking_settings": {"click_tracking": {"enable": False}},
        }
        await provider.send(email_delivery(options=Options(provider=own)))
        assert {key: counterpart.bodies[0][key] for key in own} == own

    @pytest.mark.parametrize(
        ("own", "field"),
        [
            ({"send_at": 1}, "options.provider.send_at"),
            ({"personalizations": []}, "options.provider.personalizations"),
            ({"template_id": "d-1"}, "options.provider.template_id"),
            ({"From: eve@example.com": 1}, "options.provider"),
            ({"mail_settings": {"bypass_list_management": {"enable": True}}}, "options.provider.mail_settings"),
        ],
    )
    async def test_what_is_not_passed_on_is_refused_by_name(
        self, provider: SendGridProvider, counterpart: SendGridServer, own: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as refused:
            await provider.send(email_delivery(options=Options(provider=own)))
        assert (refused.value.field, refused.value.provider) == (field, "sendgrid")
        assert counterpart.bodies == []

    async def test_a_wrong_type_is_permanent(self, provider: SendGridProvider) -> None:
        result = await provider.send(email_delivery(options=Options(provider={"asm": 7})))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, "refused options.provider.asm")
        assert result.reach is Reach.NOT_ASKED

    async def test_a_long_tag_is_permanent(self, provider: SendGridProvider) -> None:
        result = await provider.send(email_delivery(options=email_options(tags=("x" * 256,))))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, "refused options.email.tags")

    async def test_connections_are_used_again(self, provider: SendGridProvider, counterpart: SendGridServer) -> None:
        for _ in range(5):
            await provider.send(self.delivery())
        assert len(counterpart.connections) == 1

    async def test_silence_is_ambiguous(self, counterpart: SendGridServer) -> None:
        provider = sendgrid_provider(counterpart, provider_timeout_seconds=0.3)
        counterpart.misbehave("hang")
        result = await provider.send(self.delivery())
        await provider.close()
        assert (result.outcome, result.reason, result.reach) == (Outcome.AMBIGUOUS, "timeout", Reach.AWAY)

    @pytest.mark.parametrize(("status", "reach"), [(502, Reach.AWAY), (504, Reach.AWAY), (501, Reach.ANSWERED)])
    async def test_a_gateway_s_word_is_no_answer_of_the_vendor(
        self, provider: SendGridProvider, counterpart: SendGridServer, status: int, reach: Reach
    ) -> None:
        counterpart.status = status
        result = await provider.send(self.delivery())
        assert (result.outcome, result.reason, result.reach) == (Outcome.RETRY, str(status), reach)

    async def test_a_wrong_key_is_broken_and_not_told(self, counterpart: SendGridServer) -> None:
        provider = sendgrid_provider(counterpart, sendgrid_api_key="SG.wrong-key")
        result = await provider.send(self.delivery())
        await provider.close()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "401")

    async def test_a_certificate_nobody_vouches_for_is_broken(self, tmp_path: Path) -> None:
        context, _ = self_signed(tmp_path)
        server = SendGridServer(tls=context)
        await server.start()
        provider = sendgrid_provider(server)
        result = await provider.send(self.delivery())
        await provider.close()
        await server.stop()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "certificate refused")
        assert server.bodies == []

    async def test_a_request_s_own_sender_breaks_nothing_for_others(
        self, provider: SendGridProvider, counterpart: SendGridServer
    ) -> None:
        unverified = {"errors": [{"message": "does not match a verified Sender Identity", "field": "from"}]}
        counterpart.status, counterpart.answer = 403, unverified
        own = await provider.send(email_delivery(options=email_options(from_="eve@elsewhere.example")))
        usual = await provider.send(email_delivery())
        assert (own.outcome, own.reason, usual.outcome) == (Outcome.PERMANENT, "403 from", Outcome.BROKEN)

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({"Retry-After": "20"}, 20),
            ({"Retry-After": "Sun, 01 Nov 2026 12:01:00 GMT"}, 60),
            ({"X-RateLimit-Reset": str(int(NOW.timestamp()) + 30)}, 30),
            ({"Retry-After": "soon", "X-RateLimit-Reset": str(int(NOW.timestamp()) + 30)}, 30),
        ],
    )
    @pytest.mark.parametrize("status", [429, 503])
    async def test_waits_as_asked(
        self,
        provider: SendGridProvider,
        counterpart: SendGridServer,
        status: int,
        headers: dict[str, str],
        seconds: int,
    ) -> None:
        counterpart.status, counterpart.headers = status, headers
        result = await provider.send(self.delivery())
        assert (result.outcome, result.retry_after) == (Outcome.RETRY, timedelta(seconds=seconds))

    @pytest.mark.parametrize("sent_id", ["", "x" * 256, "naïve"])
    async def test_an_odd_message_id_is_left_out(
        self, provider: SendGridProvider, counterpart: SendGridServer, sent_id: str
    ) -> None:
        counterpart.headers = {"X-Message-Id": sent_id}
        result = await provider.send(self.delivery())
        assert (result.outcome, result.provider_message_id) == (Outcome.SENT, None)

    async def test_closing_ends_what_hangs(self, provider: SendGridProvider, counterpart: SendGridServer) -> None:
        counterpart.misbehave("hang")
        hanging = asyncio.ensure_future(provider.send(self.delivery()))
        await asyncio.wait({hanging}, timeout=0.1)
        await provider.close()
        assert (await hanging).outcome is Outcome.AMBIGUOUS

    @pytest.mark.parametrize(
        "base",
        ["http://no such host/", "ftp://api.test", "api.sendgrid.com", "", "http://", "http://[x", "http://x:99999"],
    )
    def test_a_wrong_base_url_is_said_at_the_start(self, base: str) -> None:
        with pytest.raises(Refused, match="SENDGRID_BASE_URL"):
            SendGridProvider(settings(sendgrid_api_key=API_KEY, sendgrid_base_url=base))

    def test_a_missing_key_is_said_at_the_start(self) -> None:
        with pytest.raises(Refused, match="SENDGRID_API_KEY: is not set"):
            SendGridProvider(settings())


@pytest.mark.parametrize("case", cases("email_header_injection.json"), ids=lambda case: case["id"])
def test_injection_cases_in_the_json(case: dict[str, Any]) -> None:
    """What `mime` refuses is refused here too; what passes keeps the schema and names nobody else."""
    for delivery, _ in deliveries(case["field"], case["value"]):
        try:
            body = payload(delivery, default_from=FROM)
        except Refused:
            assert case["expect"] != "one-message"
            continue
        assert case["expect"] != "rejected"
        assert complaints(body) == []
        people = [box["email"] for box in body["personalizations"][0]["to"] + body["personalizations"][0].get("cc", [])]
        assert "victim@example.net" not in people
        assert len(people) == (2 if case["field"] == "cc" else 1)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"from_": "Björn <bjorn@acme.example>", "reply_to": "help@acme.example", "tags": ("a", "b")},
        {"cc": ("boss@example.com", "other@example.com"), "headers": {"X-Campaign": "späte Grüße", "X-Run": "7"}},
    ],
    ids=["plain", "from", "copies"],
)
def test_the_json_is_what_the_sdk_makes_of_its_objects(options: dict[str, Any]) -> None:
    """A part of it is put together by hand, which is a third cheaper."""
    asked = email_options(**options)
    delivery = email_delivery(options=asked, generation=2, attempt=3, unsubscribe_url="https://acme.example/u/1")
    email = asked.email
    assert email is not None
    mail = Mail(from_email=email.from_ or FROM, subject=SUBJECT)
    whom = Personalization()
    whom.add_to(To(TO))
    for copy in email.cc:
        whom.add_cc(Cc(copy))
    for name in ("delivery_id", "notification_id", "generation", "attempt"):
        whom.add_custom_arg(CustomArg(name, str(getattr(delivery, name))))
    mail.add_personalization(whom)
    if email.reply_to:
        mail.reply_to = ReplyTo(email.reply_to)
    mail.add_header(Header("X-Notification-ID", str(delivery.notification_id)))
    for name, value in envelope(delivery, default_from=FROM).headers:
        mail.add_header(Header(name, encoded_text(value)))
    for tag in reversed(email.tags):
        mail.add_category(Category(tag))
    for kind, text in (("text/plain", TEXT), ("text/html", HTML)):
        mail.add_content(Content(kind, text))
    assert payload(delivery, default_from=FROM) == mail.get()


def test_the_schema_check_bites() -> None:
    assert complaints({"personalizations": [{"to": "ada@example.com"}], "from": {}, "subject": "", "content": []})
