"""The cases of `provider_responses.json` for the vendors of this version, and those for any."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from models.enums import Outcome
from streams.providers.apns import ApnsProvider
from streams.providers.base import DeliveryResult, Reach
from streams.providers.fcm import FcmProvider
from streams.providers.sendgrid import SendGridProvider
from streams.providers.ses import SesProvider
from streams.providers.smtp import SmtpProvider
from tests.contracts.apns_server import KEY_ID, TEAM_ID, TOPIC, ApnsServer
from tests.contracts.aws_server import REGION, AwsServer, credentials
from tests.contracts.deliveries import API_KEY, cases, email_delivery, push_delivery, settings
from tests.contracts.fcm_server import FcmServer
from tests.contracts.raw_smtp import DROP, RawSmtp
from tests.contracts.sendgrid_server import SendGridServer
from tests.contracts.test_twilio_contract import sms, twilio_provider
from tests.contracts.twilio_server import TwilioServer

_HERE = ("sendgrid", "smtp", "fcm", "apns", "twilio", "ses", "any")
CASES = [case for case in cases("provider_responses.json") if case["provider"] in _HERE]

_OWN_BACKOFF = None
_EXPECTED: dict[str, tuple[set[Outcome], timedelta | None]] = {
    "sent": ({Outcome.SENT}, None),
    "retry": ({Outcome.RETRY}, None),
    "retry: own backoff": ({Outcome.RETRY}, _OWN_BACKOFF),
    "retry: capped at the message's own expiry or 24 h": ({Outcome.RETRY}, timedelta(hours=24)),
    "ambiguous": ({Outcome.AMBIGUOUS}, None),
    "sent or retry; no crash": ({Outcome.SENT, Outcome.RETRY}, None),
    "permanent-failure": ({Outcome.PERMANENT}, None),
    "permanent-failure, not suppressed for good": ({Outcome.PERMANENT}, None),
    "permanent-failure + suppress": ({Outcome.TARGET_DEAD}, None),
    "drop-token": ({Outcome.TARGET_DEAD}, None),
    # Whether it was: tests/integration/test_push_devices.py.
    "drop-token only if it was registered before 'timestamp'": ({Outcome.TARGET_DEAD}, None),
    "KEEP token registered after the timestamp": ({Outcome.TARGET_DEAD}, None),
    "permanent-failure, KEEP token": ({Outcome.PERMANENT}, None),
    "permanent-failure + alert": ({Outcome.PERMANENT}, None),
    "alert, retry bounded, KEEP token": ({Outcome.RETRY}, None),
    "retry with backoff for this device only": ({Outcome.RETRY}, None),
}


async def by_sendgrid(case: dict[str, Any]) -> DeliveryResult:
    server = SendGridServer()
    await server.start()
    fields = {"sendgrid_api_key": API_KEY, "sendgrid_base_url": server.url}
    match case["body"]:
        case "connect refused":
            await server.stop()
        case "connection reset in the middle of the answer":
            server.misbehave("cut")
        case "200 with an empty body":
            server.status, server.headers = 200, {}
        case _:
            server.status, server.headers, server.answer = case["http_status"], case["headers"], case["body"]
    provider = SendGridProvider(settings(**fields))
    result = await provider.send(email_delivery())
    await provider.close()
    await server.stop()
    return result


async def by_ses(case: dict[str, Any]) -> DeliveryResult:
    server = AwsServer(None, service="ses")
    await server.start()
    match case["body"]:
        case "connect refused":
            await server.stop()
        case "connection reset in the middle of the answer":
            server.misbehave("cut")
        case "200 with an empty body":
            server.answer = (200, "", {})
        case body:
            server.answer = (case["http_status"], json.dumps(body) if body else "", case["headers"])
    fields = {"aws_ses_region": REGION, "aws_endpoint_url": server.url}
    provider = SesProvider(settings(**fields), credentials=credentials())
    result = await provider.send(email_delivery())
    await provider.close()
    await server.stop()
    return result


async def by_smtp(case: dict[str, Any], *, at: str) -> DeliveryResult:
    server = RawSmtp()
    await server.start()
    match case["body"]:
        case "connect refused":
            await server.stop()
        case "connection reset in the middle of the answer":
            server.replies["DOT"] = DROP
        case "200 with an empty body":
            server.replies["DOT"] = "200"
        case _:
            server.replies[at] = case["body"]
    provider = SmtpProvider(settings(smtp_host="127.0.0.1", smtp_port=server.port))
    result = await provider.send(email_delivery())
    await provider.close()
    await server.stop()
    return result


async def by_fcm(case: dict[str, Any]) -> DeliveryResult:
    server = FcmServer()
    await server.start()
    fields = {"fcm_server_key": server.account, "fcm_base_url": server.url}
    provider = FcmProvider(settings(**fields))
    assert (await provider.send(push_delivery())).outcome is Outcome.SENT, "so that it has an access token"
    await provider.close()
    match case["body"]:
        case "connect refused":
            await server.stop()
        case "connection reset in the middle of the answer":
            server.misbehave("cut_body")
        case "200 with an empty body":
            server.answer = {}
        case _:
            server.status, server.headers, server.answer = case["http_status"], case["headers"], case["body"]
    alerts = _alerts()
    result = await provider.send(push_delivery())
    await provider.close()
    await server.stop()
    assert (_alerts() > alerts) == ("alert" in case["expect_action"])
    return result


async def by_twilio(case: dict[str, Any]) -> DeliveryResult:
    server = TwilioServer()
    await server.start()
    match case["body"]:
        case "connect refused":
            await server.stop()
        case "connection reset in the middle of the answer":
            server.misbehave("cut")
        case "200 with an empty body":
            server.status, server.answer = 200, {}
        case _:
            server.status, server.headers, server.answer = case["http_status"], case["headers"], case["body"]
    provider = twilio_provider(server)
    result = await provider.send(sms())
    await provider.close()
    await server.stop()
    return result


def _alerts() -> float:
    return sum(
        REGISTRY.get_sample_value("comms_provider_alerts_total", {"provider": "fcm", "reason": reason}) or 0.0
        for reason in ("SENDER_ID_MISMATCH", "THIRD_PARTY_AUTH_ERROR")
    )


async def by_apns(case: dict[str, Any], folder: Path) -> DeliveryResult:
    server = ApnsServer(folder)
    server.answer(case["http_status"], case["body"], case["headers"])
    fields = {"apns_key_path": str(server.key_path), "apns_key_id": KEY_ID, "apns_team_id": TEAM_ID}
    provider = ApnsProvider(settings(**fields, apns_topic=TOPIC, apns_base_url=server.url))
    result = await provider.send(push_delivery())
    await provider.close()
    server.end()
    if "timestamp" in case["body"]:
        assert result.dead_since == datetime.fromtimestamp(case["body"]["timestamp"] / 1000, UTC)
    if "only" in case["expect_action"] and case["http_status"] == 429:
        assert result.reach is Reach.ANSWERED
    return result


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
async def test_case(case: dict[str, Any], tmp_path: Path) -> None:
    outcomes, wait = _EXPECTED[case["expect_action"]]
    results = []
    if case["provider"] in ("sendgrid", "any"):
        results.append(await by_sendgrid(case))
    if case["provider"] == "smtp" or case["id"].startswith("net-"):
        results += [await by_smtp(case, at=at) for at in ("RCPT", "DOT")]
    if case["provider"] in ("fcm", "any"):
        results.append(await by_fcm(case))
    if case["provider"] in ("twilio", "any"):
        results.append(await by_twilio(case))
    if case["provider"] in ("ses", "any"):
        results.append(await by_ses(case))
    if case["provider"] == "apns":
        results.append(await by_apns(case, tmp_path))
    assert results
    for result in results:
        assert result.outcome in outcomes, result
        assert result.retry_after == wait
    if case["headers"].get("X-Message-Id"):
        assert results[0].provider_message_id == case["headers"]["X-Message-Id"]
