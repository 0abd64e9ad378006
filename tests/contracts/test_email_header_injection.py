"""Each case of `email_header_injection.json`, checked on the bytes that two SMTP servers saw."""

from __future__ import annotations

import email
import email.header
import re
from collections.abc import AsyncIterator
from email.message import Message
from typing import Any

import pytest

from models.deliveries import Delivery
from models.enums import Outcome
from models.errors import Refused
from models.requests import EmailOptions
from streams.domain.mime import check_email_options
from streams.providers.base import DeliveryResult, UnsupportedFeature
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import TO, cases, settings
from tests.contracts.file_server import GivenFiles
from tests.contracts.injection import deliveries
from tests.contracts.raw_smtp import LENIENT, STRICT, RawMessage, RawSmtp

CASES = cases("email_header_injection.json")
VICTIM = b"victim@example.net"
_HEADERS = {
    "date",
    "from",
    "to",
    "subject",
    "message-id",
    "x-notification-id",
    "mime-version",
    "content-type",
}


_FILE_HEADERS = ["content-disposition", "content-transfer-encoding", "content-type"]


@pytest.fixture(params=[STRICT, LENIENT], ids=["strict", "old"], scope="module")
async def server(request: pytest.FixtureRequest) -> AsyncIterator[RawSmtp]:
    server = RawSmtp(ends=request.param)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture(scope="module")
async def provider(server: RawSmtp) -> AsyncIterator[SmtpProvider]:
    given = settings(smtp_host="127.0.0.1", smtp_port=server.port)
    provider = SmtpProvider(given, attachments=GivenFiles(b"a file"))
    yield provider
    await provider.close()


async def send(provider: SmtpProvider, delivery: Delivery) -> DeliveryResult | None:
    try:
        return await provider.send(delivery)
    except UnsupportedFeature:
        return None


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
async def test_case(server: RawSmtp, provider: SmtpProvider, case: dict[str, Any]) -> None:
    for delivery, extra in deliveries(case["field"], case["value"]):
        server.messages.clear()
        server.commands.clear()
        result = await send(provider, delivery)
        if result is None or result.outcome is Outcome.PERMANENT:
            assert case["expect"] != "one-message", result
            assert result is None or result.reason.startswith("refused ")
            assert server.messages == []
            assert_early(delivery)
            continue
        assert case["expect"] != "rejected", case
        assert result.outcome is Outcome.SENT, result
        (message,) = server.messages
        assert_envelope(server, message, case)
        assert_wire(message, delivery, extra)


def assert_early(delivery: Delivery) -> None:
    """The API refuses what the builder refuses, where it is an option."""
    options = delivery.options.email
    if options is not None:
        with pytest.raises(Refused, match=r"^options\.email\.") as refused:
            check_email_options(options)
        assert "victim" not in str(refused.value)


def assert_envelope(server: RawSmtp, message: RawMessage, case: dict[str, Any]) -> None:
    expected = [TO]
    if case["field"] == "to":
        expected = [case["value"].split("@")[0]]
    elif case["field"] == "cc":
        expected.append(case["value"].split("@")[0])
    assert len(message.recipients) == len(expected)
    for recipient, wanted in zip(message.recipients, expected, strict=True):
        assert recipient.startswith(b"<" + wanted.encode())
        assert recipient != b"<" + VICTIM + b">"
    verbs = [command.split(b" ")[0].split(b":")[0] for command in server.commands]
    assert set(verbs) <= {b"EHLO", b"MAIL", b"RCPT", b"DATA", b"RSET"}
    assert verbs.count(b"MAIL") == 1


def assert_wire(message: RawMessage, delivery: Delivery, extra: set[str]) -> None:
    lines = message.data.split(b"\r\n")
    assert not [line for line in lines if len(line) > 998 or b"\r" in line or b"\n" in line or b"\0" in line]
    assert message.data.isascii()
    parsed = email.message_from_bytes(message.data)
    names = [name.lower() for name in parsed]
    assert sorted(names) == sorted(_HEADERS | extra)
    assert read(parsed["Subject"]) == delivery.content["subject"]
    assert bodies(parsed) == [normal(delivery.content["text"]), normal(delivery.content["html"])]


def read(header: str) -> str:
    return str(email.header.make_header(email.header.decode_header(header)))


def bodies(parsed: Message) -> list[str]:
    parts: Any = parsed.get_payload()
    if parsed.get_content_type() == "multipart/mixed":
        alternative, file = parts
        assert sorted(name.lower() for name in file) == _FILE_HEADERS
        assert not re.search(r"[\x00-\x1f/\\]", file.get_filename())
        assert file.get_payload(decode=True) == b"a file"
        parts = alternative.get_payload()
    return [part.get_payload(decode=True).decode() for part in parts]


def normal(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "").replace("\n", "\r\n")


def test_the_api_lets_ordinary_options_pass() -> None:
    check_email_options(
        EmailOptions.model_validate(
            {
                "from": "Acme, Inc. <news@acme.example>".replace(",", ""),
                "reply_to": "help@acme.example",
                "cc": ["boss@example.com"],
                "headers": {"X-Campaign": "späte Grüße", "List-Unsubscribe": "<https://acme.example/u/1>"},
                "tags": ["q4"],
            },
            strict=False,
        )
    )
