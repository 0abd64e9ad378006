"""The SendGrid provider against Prism, a mock server by others that holds requests to the OpenAPI document."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.enums import Outcome
from models.requests import Options
from streams.providers.sendgrid import SendGridProvider
from tests.contracts.deliveries import API_KEY, PAYLOADS, email_delivery, email_options, settings
from tests.contracts.file_server import GivenFiles, with_files
from tests.fixtures.prism import prism


def document(folder: Path) -> Path:
    """Prism serves paths without the `/v3` of the server's URL, so it is written into the path."""
    contents = json.loads((PAYLOADS / "sendgrid" / "mail_send_openapi.json").read_text())
    contents["paths"] = {f"/v3{path}": operations for path, operations in contents["paths"].items()}
    target = folder / "openapi.json"
    target.write_text(json.dumps(contents))
    return target


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SendGridProvider]:
    async with prism(document(tmp_path_factory.mktemp("prism"))) as url:
        given = settings(sendgrid_api_key=API_KEY, sendgrid_base_url=url)
        provider = SendGridProvider(given, attachments=GivenFiles())
        yield provider
        await provider.close()


async def test_an_ordinary_message_is_taken(provider: SendGridProvider) -> None:
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT


async def test_a_message_with_everything_is_taken(provider: SendGridProvider) -> None:
    options = email_options(
        from_="Acme <news@acme.example>",
        reply_to="help@acme.example",
        cc=("boss@example.com",),
        headers={"X-Campaign": "q4"},
        tags=("invoice", "q4"),
    ).model_copy(update={"provider": {"asm": {"group_id": 7}, "mail_settings": {"sandbox_mode": {"enable": True}}}})
    assert (await provider.send(email_delivery(options=options))).outcome is Outcome.SENT


async def test_files_are_taken(provider: SendGridProvider) -> None:
    options = with_files(("https://files.example/1", "Rechnung März.pdf"), ("https://files.example/2", "b.pdf"))
    assert (await provider.send(email_delivery(options=options))).outcome is Outcome.SENT


async def test_what_breaks_the_schema_is_permanent(provider: SendGridProvider) -> None:
    bad = Options(provider={"asm": {"groups_to_display": "none"}})
    assert (await provider.send(email_delivery(options=bad))).outcome is Outcome.PERMANENT
