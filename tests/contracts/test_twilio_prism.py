"""The Twilio provider against Prism, which holds its requests to Twilio's own OpenAPI document.

Twilio ships the document inside its CLI's package; only the resource of messages is served.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from models.enums import Outcome
from models.requests import Options
from streams.providers.twilio import TwilioProvider
from tests.contracts.deliveries import settings
from tests.contracts.test_twilio_contract import fields, from_sender, sms
from tests.contracts.twilio_server import TAKEN
from tests.fixtures.prism import npm_file, prism

_PACKAGE = "@twilio/cli-core@9.0.0"
_DOCUMENT = "src/services/twilio-api/twilio_api_v2010.json"
_MESSAGES = "/2010-04-01/Accounts/{AccountSid}/Messages"


def document(folder: Path) -> Path:
    """Twilio's document without its hundred other resources, which Prism would read for seconds."""
    contents = json.loads(npm_file(_PACKAGE, _DOCUMENT, folder).read_text())
    paths = (f"{_MESSAGES}.json", f"{_MESSAGES}/{{Sid}}.json")
    contents["paths"] = {path: contents["paths"][path] for path in paths}
    target = folder / "openapi.json"
    target.write_text(json.dumps(contents))
    return target


@pytest.fixture(scope="module")
async def url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    async with prism(document(tmp_path_factory.mktemp("prism"))) as served:
        yield served


async def outcome(url: str, delivery: Any, **given: Any) -> tuple[Outcome, str | None]:
    provider = TwilioProvider(settings(**fields(twilio_base_url=url, provider_timeout_seconds=10, **given)))
    result = await provider.send(delivery)
    await provider.close()
    return result.outcome, result.reason


async def test_an_ordinary_message_is_taken(url: str) -> None:
    assert await outcome(url, sms()) == (Outcome.SENT, None)


async def test_a_message_with_everything_is_taken(url: str) -> None:
    own = {
        "validity_period": 600,
        "smart_encoded": True,
        "shorten_urls": False,
        "content_retention": "discard",
        "address_retention": "obfuscate",
    }
    delivery = sms(content={"text": "Grüße & 1+1=2 😀"}, options=Options(provider=own))
    assert await outcome(url, delivery, twilio_from="MG" + "a" * 32) == (Outcome.SENT, None)
    assert await outcome(url, sms(options=from_sender("My Shop"))) == (Outcome.SENT, None)


async def test_what_breaks_the_schema_is_permanent(url: str) -> None:
    """`zz…` is no messaging service's id: Prism refuses what the document forbids."""
    assert await outcome(url, sms(), twilio_from="MG" + "z" * 32) == (Outcome.PERMANENT, "422")


async def test_the_status_is_read_as_the_document_has_it(url: str) -> None:
    provider = TwilioProvider(settings(**fields(twilio_base_url=url, provider_timeout_seconds=10)))
    told = await provider.get_status(TAKEN)
    await provider.close()
    assert told.status is not None
