"""The cases of `provider_responses.json` for the vendors of this version, and those for any."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from models.enums import Outcome
from streams.providers.base import DeliveryResult
from streams.providers.sendgrid import SendGridProvider
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import API_KEY, cases, email_delivery, settings
from tests.contracts.raw_smtp import DROP, RawSmtp
from tests.contracts.sendgrid_server import SendGridServer

CASES = [case for case in cases("provider_responses.json") if case["provider"] in ("sendgrid", "smtp", "any")]

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


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
async def test_case(case: dict[str, Any]) -> None:
    outcomes, wait = _EXPECTED[case["expect_action"]]
    results = []
    if case["provider"] in ("sendgrid", "any"):
        results.append(await by_sendgrid(case))
    if case["provider"] == "smtp" or case["id"].startswith("net-"):
        results += [await by_smtp(case, at=at) for at in ("RCPT", "DOT")]
    assert results
    for result in results:
        assert result.outcome in outcomes, result
        assert result.retry_after == wait
    if case["headers"].get("X-Message-Id"):
        assert results[0].provider_message_id == case["headers"]["X-Message-Id"]
