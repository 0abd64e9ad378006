"""Where AWS's keys come from, and that a change of them needs no restart."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.enums import Outcome
from models.errors import Unavailable
from streams.providers.aws_sdk import find_credentials, keys_of
from streams.providers.base import Reach
from streams.providers.ses import SesProvider
from tests.contracts.aws_server import REGION, SECRET_KEY, AwsServer
from tests.contracts.deliveries import email_delivery, settings


@pytest.fixture(autouse=True)
def nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """No keys anywhere; gives the file that may hold some."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    file = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return file


@pytest.fixture
async def server() -> AsyncIterator[AwsServer]:
    server = AwsServer(None, service="ses")
    await server.start()
    server.answer = (200, '{"MessageId": "0100018f-1-000000"}', {})
    yield server
    await server.stop()


@pytest.fixture
async def provider(server: AwsServer) -> AsyncIterator[SesProvider]:
    fields = {"aws_ses_region": REGION, "aws_endpoint_url": server.url, "provider_timeout_seconds": 3.0}
    provider = SesProvider(settings(**fields))
    yield provider
    await provider.close()


def keep(file: Path, secret: str) -> None:
    file.write_text(f"[default]\naws_access_key_id = AKIATEST\naws_secret_access_key = {secret}\n")


async def test_without_keys_nobody_is_asked_and_no_message_burnt(provider: SesProvider, server: AwsServer) -> None:
    results = await asyncio.gather(*(provider.send(email_delivery()) for _ in range(20)))
    # Not `not_asked`: that would say nothing of the provider, and nothing would hold it.
    assert {(each.outcome, each.reason, each.reach) for each in results} == {
        (Outcome.BROKEN, "no credentials", Reach.ANSWERED)
    }
    assert server.paths == []


async def test_keys_that_come_later_are_found(provider: SesProvider, nothing: Path) -> None:
    assert (await provider.send(email_delivery())).outcome is Outcome.BROKEN
    keep(nothing, SECRET_KEY)
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT


async def test_keys_that_were_refused_are_read_again(provider: SesProvider, server: AwsServer, nothing: Path) -> None:
    keep(nothing, "an-old-secret")
    refused = await provider.send(email_delivery())
    assert (refused.outcome, refused.reason) == (Outcome.BROKEN, "SignatureDoesNotMatch")
    keep(nothing, SECRET_KEY)
    server.answer = (200, "{}", {})
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT


async def test_the_environment_has_keys(provider: SesProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session-token")
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT
    assert (await keys_of(await find_credentials())).token == "a-session-token"


async def test_half_of_the_keys_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIATEST")
    with pytest.raises(Unavailable) as found:
        await find_credentials()
    assert "AKIATEST" not in str(found.value)


async def test_a_role_that_answers_late_holds_nobody_for_long(
    server: AwsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a container: its address never answers; the call's own time is the limit."""
    server.misbehave("hang")
    monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", server.url.replace("127.0.0.1", "localhost") + "/role")
    fields = {"aws_ses_region": REGION, "aws_endpoint_url": server.url, "provider_timeout_seconds": 0.6}
    provider = SesProvider(settings(**fields))
    async with asyncio.timeout(2):
        result = await provider.send(email_delivery())
    await provider.close()
    assert (result.outcome, result.reason) == (Outcome.BROKEN, "no credentials")
