"""`comms providers check`: one message, and a plain word on each way it can fail."""

from __future__ import annotations

import json
import re
from datetime import timedelta

import pytest

from cli import CommandError
from cli.provider_advice import _CASES, advice
from cli.provider_check import asked, check, misconfigured
from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import _KNOWN_PROVIDERS, Settings
from streams.providers.base import DeliveryResult, DeliveryStatus, NotificationProvider, Reach, UnsupportedFeature
from tests.contracts.deliveries import API_KEY, settings

KNOWN = set().union(*_KNOWN_PROVIDERS.values())
Answer = DeliveryResult | Exception


class Fake(NotificationProvider):
    """Answers as told."""

    name = "sendgrid"
    channel = Channel.EMAIL

    def __init__(self, answer: Answer, *, channel: Channel = Channel.EMAIL, name: str = "sendgrid") -> None:
        self.name = name  # type: ignore[misc]
        self.channel = channel  # type: ignore[misc]
        self.answer = answer
        self.asked: list[Delivery] = []
        self.steps: list[str] = []

    async def open(self) -> None:
        self.steps.append("open")

    async def close(self) -> None:
        self.steps.append("close")

    async def send(self, delivery: Delivery) -> DeliveryResult:
        self.asked.append(delivery)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def get_status(self, message_id: str) -> DeliveryStatus:
        return DeliveryStatus(status=None, detail=f"queued {message_id}")


def result(
    outcome: Outcome,
    reason: str | None = None,
    *,
    provider: str = "sendgrid",
    reach: Reach = Reach.ANSWERED,
    wait: float | None = None,
    message_id: str | None = None,
) -> DeliveryResult:
    return DeliveryResult(
        outcome=outcome,
        provider=provider,
        reason=reason,
        reach=reach,
        retry_after=None if wait is None else timedelta(seconds=wait),
        provider_message_id=message_id,
    )


async def test_a_message_that_was_taken() -> None:
    provider = Fake(result(Outcome.SENT, message_id="m-1"))
    found = await check(provider, settings(), to="Ada@Example.com")
    assert (found.is_well, found.to, found.provider_message_id) == (True, "A***@example.com", "m-1")
    assert (found.wrong, found.todo, found.status) == (None, None, "queued m-1")
    assert [delivery.to for delivery in provider.asked] == ["Ada@example.com"]
    assert provider.steps == ["open", "close"]


async def test_mail_goes_to_ourselves_where_nobody_is_named() -> None:
    provider = Fake(result(Outcome.SENT))
    await check(provider, settings(email_from="Acme <news@acme.example>"), to=None)
    assert provider.asked[0].to == "news@acme.example"


async def test_a_push_goes_to_the_device_of_that_platform() -> None:
    provider = Fake(result(Outcome.SENT, provider="fcm"), channel=Channel.PUSH, name="fcm")
    found = await check(provider, settings(), to="token-of-a-device-1234")
    (device,) = provider.asked[0].devices
    assert (device.platform, device.token) == ("fcm", "token-of-a-device-1234")
    assert found.to == "tok*****234"


@pytest.mark.parametrize(
    ("channel", "name", "to", "named"),
    [
        (Channel.SMS, "twilio", None, "a phone number"),
        (Channel.PUSH, "apns", None, "a device's token"),
        (Channel.SMS, "twilio", "12", "--to"),
        (Channel.EMAIL, "smtp", "nobody", "--to"),
        (Channel.PUSH, "fcm", "with blank", "--to"),
        (Channel.IN_APP, "in_app", None, "comms send"),
    ],
)
async def test_what_cannot_be_sent_is_said(channel: Channel, name: str, to: str | None, named: str) -> None:
    provider = Fake(result(Outcome.SENT), channel=channel, name=name)
    with pytest.raises(CommandError, match=re.escape(named)):
        await check(provider, settings(), to=to)
    assert provider.asked == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(f"key {API_KEY}"), "raised RuntimeError"),
        (Refused("EMAIL_FROM", "is wrong"), "refused EMAIL_FROM"),
        (UnsupportedFeature("options.provider.x", "sendgrid"), "refused options.provider.x"),
    ],
)
async def test_errors_are_findings_without_their_text(error: Exception, reason: str) -> None:
    found = await check(Fake(error), settings(sendgrid_api_key=API_KEY), to="ada@example.com")
    assert (found.is_well, found.reason) == (False, reason)
    assert found.wrong and found.todo
    assert API_KEY not in repr(found)


@pytest.mark.parametrize(
    ("told", "wrong", "todo"),
    [
        (result(Outcome.BROKEN, "401"), "API key", "SENDGRID_API_KEY"),
        (result(Outcome.PERMANENT, "403 from"), "not verified", "EMAIL_FROM"),
        (result(Outcome.BROKEN, "404"), "not at this address", "SENDGRID_BASE_URL"),
        (result(Outcome.BROKEN, "certificate refused"), "certificate", "base URL"),
        (result(Outcome.RETRY, "unreachable", reach=Reach.AWAY), "nobody answers", "SENDGRID_BASE_URL"),
        (result(Outcome.RETRY, "429", wait=20), "had enough", "wait"),
        (result(Outcome.RETRY, "500"), "trouble of its own", "status page"),
        (result(Outcome.AMBIGUOUS, "timeout", reach=Reach.AWAY), "or not", "arrived"),
        (result(Outcome.BROKEN, "535 5.7.8", provider="smtp"), "login", "SMTP_PASSWORD"),
        (result(Outcome.PERMANENT, "MessageRejected", provider="ses"), "sandbox", "AWS_SES_REGION"),
        (result(Outcome.BROKEN, "UnrecognizedClient", provider="ses"), "keys", "AWS_ACCESS_KEY_ID"),
        (result(Outcome.BROKEN, "no credentials", provider="sns"), "no AWS credentials", "AWS_SECRET_ACCESS_KEY"),
        (result(Outcome.BROKEN, "20003", provider="twilio"), "account or the token", "TWILIO_AUTH_TOKEN"),
        (result(Outcome.PERMANENT, "21608", provider="twilio"), "trial", "verify"),
        (result(Outcome.TARGET_DEAD, "opted_out", provider="twilio"), "opted out", "another"),
        (result(Outcome.TARGET_DEAD, "opted_out", provider="sns"), "opted out", "console"),
        (result(Outcome.BROKEN, "InvalidParameter sender", provider="sns"), "sender", "SMS_SENDERS"),
        (result(Outcome.BROKEN, "service account refused", provider="fcm"), "service account", "FCM_SERVER_KEY"),
        (result(Outcome.RETRY, "no access token", provider="fcm", reach=Reach.AWAY), "token server", "token_uri"),
        (result(Outcome.TARGET_DEAD, "UNREGISTERED", provider="fcm"), "token", "running app"),
        (result(Outcome.BROKEN, "403 InvalidProviderToken", provider="apns"), "key", "APNS_KEY_ID"),
        (result(Outcome.TARGET_DEAD, "400 BadDeviceToken", provider="apns"), "environment", "sandbox"),
        (result(Outcome.TARGET_DEAD, "550 5.1.1", provider="smtp"), "recipient", "--to"),
        (result(Outcome.PERMANENT, "whatever", provider="pigeon"), "does not take", "--to"),
    ],
)
def test_each_trouble_has_its_word(told: DeliveryResult, wrong: str, todo: str) -> None:
    found = advice(told)
    assert found is not None
    assert wrong in found.wrong and todo in found.todo


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("provider", sorted(KNOWN))
def test_every_outcome_of_everybody_has_a_word_but_the_good_one(outcome: Outcome, provider: str) -> None:
    for reach in Reach:
        found = advice(result(outcome, None, provider=provider, reach=reach))
        assert (found is None) == (outcome is Outcome.SENT)


def test_the_table_names_known_providers_and_settings() -> None:
    for case in _CASES:
        assert case.providers == "*" or set(case.providers.split()) <= KNOWN
        for name in re.findall(r"\b[A-Z]+(?:_[A-Z]+)+\b", case.advice.todo):
            assert name.lower() in Settings.model_fields or name.startswith("AWS_"), name


def test_a_missing_setting_is_named_and_no_key_is_shown() -> None:
    given = settings(sendgrid_api_key=API_KEY, smtp_password="hunter2-secret", twilio_auth_token="tok-secret")
    found = misconfigured("twilio", Channel.SMS, given, Refused("TWILIO_FROM", "is not set"))
    assert (found.is_well, found.wrong) == (False, "TWILIO_FROM is not set")
    shown = json.dumps([asked(name, given) for name in KNOWN])
    assert not any(secret in shown for secret in (API_KEY, "hunter2-secret", "tok-secret"))
