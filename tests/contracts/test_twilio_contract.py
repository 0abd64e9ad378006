"""The Twilio provider: outcomes, senders and what travels in the form."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Status
from models.errors import Refused
from models.requests import Options, SmsOptions
from streams.providers.base import Reach, UnsupportedFeature
from streams.providers.twilio import TwilioProvider, is_public
from tests.contracts.deliveries import email_delivery, email_options, settings, with_attachment
from tests.contracts.mail_server import self_signed
from tests.contracts.provider_contract import ProviderContract
from tests.contracts.twilio_server import ACCOUNT, BODY, PHONE, TAKEN, TOKEN, TwilioServer

NOW = datetime(2026, 11, 1, 12, 0, tzinfo=UTC)
SENDER = "+15005550006"
SERVICE = "MG" + "2" * 32


def fields(**given: Any) -> dict[str, Any]:
    known = {"twilio_account_sid": ACCOUNT, "twilio_auth_token": TOKEN, "twilio_from": SENDER}
    return {**known, "public_url": "https://notify.example.com/", "provider_timeout_seconds": 2.0, **given}


def twilio_provider(server: TwilioServer, **given: Any) -> TwilioProvider:
    return TwilioProvider(settings(**fields(twilio_base_url=server.url, **given)), clock=lambda: NOW)


def sms(**given: Any) -> Delivery:
    return email_delivery(**{"channel": Channel.SMS, "to": PHONE, "content": {"text": BODY}, **given})


def from_sender(sender: str) -> Options:
    return Options(sms=SmsOptions(sender=sender))


@pytest.fixture
async def counterpart() -> AsyncIterator[TwilioServer]:
    server = TwilioServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def provider(counterpart: TwilioServer) -> AsyncIterator[TwilioProvider]:
    provider = twilio_provider(counterpart)
    yield provider
    await provider.close()


class TestTwilio(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "301": Outcome.BROKEN,
        "400": Outcome.PERMANENT,
        "400 99999": Outcome.PERMANENT,
        "400 20005": Outcome.BROKEN,
        "400 21211": Outcome.PERMANENT,
        "400 21212": Outcome.BROKEN,
        "400 21408": Outcome.PERMANENT,
        "403 21408": Outcome.PERMANENT,
        "400 21606": Outcome.BROKEN,
        "400 21609": Outcome.BROKEN,
        "400 21610": Outcome.TARGET_DEAD,
        "400 21614": Outcome.PERMANENT,
        "400 21617": Outcome.PERMANENT,
        "401 20003": Outcome.BROKEN,
        "401": Outcome.BROKEN,
        "403": Outcome.BROKEN,
        "404 20404": Outcome.BROKEN,
        "404": Outcome.BROKEN,
        "408": Outcome.RETRY,
        "413": Outcome.PERMANENT,
        "429": Outcome.RETRY,
        "429 20429": Outcome.RETRY,
        "429 21611": Outcome.RETRY,
        "500 20500": Outcome.RETRY,
        "500": Outcome.RETRY,
        "503": Outcome.RETRY,
        "503 20503": Outcome.RETRY,
        "reset": Outcome.AMBIGUOUS,
        "cut": Outcome.AMBIGUOUS,
        "cut_body": Outcome.AMBIGUOUS,
        "garbage": Outcome.AMBIGUOUS,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset(
        {"429", "429 20429", "503", "503 20503", "reset", "cut", "cut_body", "garbage"}
    )

    def delivery(self) -> Delivery:
        return sms()

    async def test_the_request_is_the_message(self, provider: TwilioProvider, counterpart: TwilioServer) -> None:
        text = "Grüße & 1+1=2 %41 😀\nzweite Zeile"
        delivery = sms(content={"text": text}, generation=1, attempt=3)
        result = await provider.send(delivery)
        assert (result.provider_message_id, result.reason) == (TAKEN, None)
        [form] = counterpart.forms
        address = urlsplit(form.pop("StatusCallback"))
        assert form == {"To": PHONE, "From": SENDER, "Body": text}
        assert f"{address.scheme}://{address.netloc}{address.path}" == (
            "https://notify.example.com/api/v1/webhooks/twilio"
        )
        ids = {"delivery_id": [str(delivery.delivery_id)], "generation": ["1"], "attempt": ["3"]}
        assert parse_qs(address.query) == ids

    async def test_reasons_are_twilio_s_codes(self, provider: TwilioProvider, counterpart: TwilioServer) -> None:
        for how, reason in {"400 21610": "opted_out", "400 21211": "21211", "503": "503"}.items():
            counterpart.misbehave(how)
            result = await provider.send(self.delivery())
            assert result.reason == reason
            assert not [secret for secret in (PHONE, BODY, TOKEN) if secret in repr(result)]

    async def test_the_sender_is_the_request_s_else_the_country_s(self, counterpart: TwilioServer) -> None:
        provider = twilio_provider(counterpart, sms_senders={"DE": "ACME", "CA": SERVICE})
        await provider.send(sms())
        await provider.send(sms(to="+14165550123"))
        await provider.send(sms(to="+12125550123"))
        await provider.send(sms(options=from_sender("My Shop")))
        await provider.close()
        senders = [(form.get("From"), form.get("MessagingServiceSid")) for form in counterpart.forms]
        assert senders == [("ACME", None), (None, SERVICE), (SENDER, None), ("My Shop", None)]

    @pytest.mark.parametrize("code", ["21212", "21606", "21660"])
    async def test_a_request_s_own_sender_breaks_nothing_for_others(
        self, provider: TwilioProvider, counterpart: TwilioServer, code: str
    ) -> None:
        counterpart.misbehave(f"400 {code}")
        own = await provider.send(sms(options=from_sender("Eve")))
        usual = await provider.send(sms())
        assert (own.outcome, own.reason, usual.outcome) == (Outcome.PERMANENT, code, Outcome.BROKEN)

    async def test_what_only_twilio_has_is_passed_on(self, provider: TwilioProvider, counterpart: TwilioServer) -> None:
        own = {
            "validity_period": 600,
            "smart_encoded": True,
            "shorten_urls": False,
            "content_retention": "discard",
            "address_retention": "obfuscate",
        }
        await provider.send(sms(options=Options(provider=own)))
        [form] = counterpart.forms
        assert {name: form[name] for name in ("ValidityPeriod", "SmartEncoded", "ShortenUrls")} == {
            "ValidityPeriod": "600",
            "SmartEncoded": "true",
            "ShortenUrls": "false",
        }
        assert (form["ContentRetention"], form["AddressRetention"]) == ("discard", "obfuscate")

    @pytest.mark.parametrize(
        ("own", "field"),
        [
            ({"media_url": "https://a.example/x.png"}, "options.provider.media_url"),
            ({"risk_check": "disable"}, "options.provider.risk_check"),
            ({"send_at": "2027-01-01T00:00:00Z"}, "options.provider.send_at"),
            ({"To&Body": "x"}, "options.provider"),
        ],
    )
    async def test_what_is_not_passed_on_is_refused_by_name(
        self, provider: TwilioProvider, counterpart: TwilioServer, own: dict[str, Any], field: str
    ) -> None:
        with pytest.raises(UnsupportedFeature) as refused:
            await provider.send(sms(options=Options(provider=own)))
        assert (refused.value.field, refused.value.provider) == (field, "twilio")
        assert counterpart.connections == set()

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("validity_period", 0),
            ("validity_period", 36_001),
            ("validity_period", True),
            ("validity_period", "60"),
            ("smart_encoded", 1),
            ("content_retention", "discard&To=+1"),
        ],
    )
    async def test_a_wrong_value_is_permanent(
        self, provider: TwilioProvider, counterpart: TwilioServer, name: str, value: object
    ) -> None:
        result = await provider.send(sms(options=Options(provider={name: value})))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, f"refused options.provider.{name}")
        assert result.reach is Reach.NOT_ASKED
        assert counterpart.connections == set()

    async def test_options_of_other_channels_are_not_its_own(self, provider: TwilioProvider) -> None:
        for options in (with_attachment(), email_options(tags=("a",))):
            assert (await provider.send(sms(options=options))).outcome is Outcome.SENT

    async def test_connections_are_used_again(self, provider: TwilioProvider, counterpart: TwilioServer) -> None:
        for _ in range(5):
            await provider.send(self.delivery())
        assert len(counterpart.connections) == 1

    async def test_silence_is_ambiguous(self, counterpart: TwilioServer) -> None:
        provider = twilio_provider(counterpart, provider_timeout_seconds=0.3)
        counterpart.misbehave("hang")
        result = await provider.send(self.delivery())
        status = await provider.get_status(TAKEN)
        await provider.close()
        assert (result.outcome, result.reason, result.reach) == (Outcome.AMBIGUOUS, "timeout", Reach.AWAY)
        assert (status.status, status.detail) == (None, "timeout")

    async def test_a_wrong_token_is_broken_and_not_told(self, counterpart: TwilioServer) -> None:
        provider = twilio_provider(counterpart, twilio_auth_token="wrong-token")
        result = await provider.send(self.delivery())
        await provider.close()
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "20003")
        assert "wrong-token" not in repr(result)

    async def test_a_certificate_nobody_vouches_for_is_broken(self, tmp_path: Path) -> None:
        context, _ = self_signed(tmp_path)
        server = TwilioServer(tls=context)
        await server.start()
        provider = twilio_provider(server)
        result = await provider.send(self.delivery())
        await provider.close()
        await server.stop()
        assert (result.outcome, result.reason, server.forms) == (Outcome.BROKEN, "certificate refused", [])

    @pytest.mark.parametrize(("header", "seconds"), [("20", 20), ("Sun, 01 Nov 2026 12:01:00 GMT", 60)])
    @pytest.mark.parametrize("how", ["429 20429", "503"])
    async def test_waits_as_asked(
        self, provider: TwilioProvider, counterpart: TwilioServer, how: str, header: str, seconds: int
    ) -> None:
        counterpart.misbehave(how)
        counterpart.headers = {"Retry-After": header}
        result = await provider.send(self.delivery())
        assert (result.outcome, result.retry_after) == (Outcome.RETRY, timedelta(seconds=seconds))

    @pytest.mark.parametrize("answer", [{}, {"sid": ""}, {"sid": 7}, {"sid": "x" * 256}, {"sid": "ü"}, [1]])
    async def test_an_odd_answer_is_no_error(
        self, provider: TwilioProvider, counterpart: TwilioServer, answer: Any
    ) -> None:
        counterpart.answer = answer
        result = await provider.send(self.delivery())
        assert (result.outcome, result.provider_message_id) == (Outcome.SENT, None)

    async def test_a_message_that_failed_at_once_is_not_sent(
        self, provider: TwilioProvider, counterpart: TwilioServer
    ) -> None:
        counterpart.answer = {"sid": TAKEN, "status": "failed", "error_code": 21610}
        assert (await provider.send(self.delivery())).outcome is Outcome.TARGET_DEAD

    async def test_closing_ends_what_hangs(self, provider: TwilioProvider, counterpart: TwilioServer) -> None:
        counterpart.misbehave("hang")
        hanging = asyncio.ensure_future(provider.send(self.delivery()))
        await asyncio.wait({hanging}, timeout=0.1)
        await provider.close()
        assert (await hanging).outcome is Outcome.AMBIGUOUS

    async def test_the_status_of_a_message(self, provider: TwilioProvider, counterpart: TwilioServer) -> None:
        assert (await provider.get_status(TAKEN)).status is Status.DELIVERED
        counterpart.message = {"sid": TAKEN, "status": "undelivered", "error_code": 30003}
        told = await provider.get_status(TAKEN)
        assert (told.status, told.detail) == (Status.FAILED, "30003")
        counterpart.message = {"status": "some_new_status"}
        assert (await provider.get_status(TAKEN)).status is None
        unknown = await provider.get_status("SM" + "9" * 32)
        assert (unknown.status, unknown.detail) == (None, "20404")
        asked = len(counterpart.connections)
        assert (await provider.get_status("../../Accounts")).status is None
        assert len(counterpart.connections) == asked


@pytest.mark.parametrize(
    ("public_url", "base_url", "told"),
    [
        ("https://notify.example.com", "https://api.twilio.com", True),
        ("http://203.0.113.9:8002", "https://api.twilio.com", False),  # of no network that is in use
        ("http://8.8.8.8:8002", "https://api.twilio.com", True),
        ("http://localhost:8002", "https://api.twilio.com", False),
        ("http://127.0.0.1:8002", "https://api.twilio.com", False),
        ("http://[::1]:8002", "https://api.twilio.com", False),
        ("http://10.0.0.7", "https://api.twilio.com", False),
        ("http://comms:8002", "https://api.twilio.com", False),
        ("http://localhost:8002", "http://127.0.0.1:9000", True),  # a stand-in that can reach it
        ("ftp://notify.example.com", "https://api.twilio.com", False),
        ("", "http://127.0.0.1:9000", False),
    ],
)
def test_twilio_is_told_where_to_report_if_it_can_reach_it(public_url: str, base_url: str, told: bool) -> None:
    provider = TwilioProvider(settings(**fields(public_url=public_url, twilio_base_url=base_url)))
    assert (b"StatusCallback" in provider._form(sms())) is told


@pytest.mark.parametrize("url", ["http://[::1", "https://", "notify.example.com", "https://printer.local"])
def test_what_is_not_public(url: str) -> None:
    assert not is_public(url)


@pytest.mark.parametrize(
    ("wrong", "setting"),
    [
        ({"twilio_account_sid": None}, "TWILIO_ACCOUNT_SID: is not set"),
        ({"twilio_account_sid": "AC/../x"}, "TWILIO_ACCOUNT_SID"),
        ({"twilio_auth_token": None}, "TWILIO_AUTH_TOKEN: is not set"),
        ({"twilio_from": None}, "TWILIO_FROM: is not set"),
        ({"twilio_from": "a name that is too long"}, "TWILIO_FROM"),
        ({"twilio_from": "+1 500 555 0006"}, "TWILIO_FROM"),
        ({"sms_senders": {"DE": "a&b=c"}}, "SMS_SENDERS"),
        ({"twilio_base_url": "api.twilio.com"}, "TWILIO_BASE_URL"),
    ],
)
def test_a_wrong_setting_is_said_at_the_start(wrong: dict[str, Any], setting: str) -> None:
    with pytest.raises(Refused, match=setting):
        TwilioProvider(settings(**fields(**wrong)))
