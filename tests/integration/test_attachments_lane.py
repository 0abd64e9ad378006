"""Files of e-mails in a channel lane: a host in trouble delays its messages and nobody else's."""

from __future__ import annotations

import email
import email.policy
import itertools
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from models.deliveries import Delivery
from models.requests import Options
from models.settings import RetryPolicy
from streams.providers.smtp import SmtpProvider
from streams.records import Incoming, Outgoing
from streams.topics import DEAD_LETTERS, SENT
from tests.contracts.deliveries import settings
from tests.contracts.file_server import PDF, FileServer, with_files
from tests.contracts.mail_server import MailServer
from tests.fixtures.lane import a_lane
from tests.fixtures.rows import Rows, delivery, some_rows
from tests.fixtures.stack import Databases

_OFFSETS = itertools.count()
CONTENT = {"subject": "Hi", "text": "Hello"}


class Told:
    """Writes down what was told."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.records += records
        return [(0, next(_OFFSETS)) for _ in records]

    def of(self, topic: str) -> list[Outgoing]:
        return [record for record in self.records if record.topic.startswith(topic)]


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


@pytest.fixture
async def files() -> AsyncIterator[FileServer]:
    server = FileServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def mails() -> AsyncIterator[MailServer]:
    server = MailServer()
    await server.start()
    yield server
    await server.stop()


def given(files: FileServer, mails: MailServer) -> Any:
    return settings(
        smtp_host="127.0.0.1",
        smtp_port=mails.port,
        attachment_hosts=(files.host,),
        provider_timeout_seconds=2,
        claim_grace_seconds=0.5,
        email_retry=RetryPolicy(max_attempts=3, base_seconds=5),
    )


async def asked(rows: Rows, *options: Options) -> list[Incoming]:
    found: list[Delivery] = [
        delivery(await rows.queued(), user_id=f"u-{number}", content=CONTENT, options=one)
        for number, one in enumerate(options)
    ]
    return [Incoming("", 0, offset, 0, one.user_id.encode(), one.record_value()) for offset, one in enumerate(found)]


async def test_a_bulk_with_one_file(rows: Rows, files: FileServer, mails: MailServer) -> None:
    told, options = Told(), given(files, mails)
    records = await asked(rows, *[with_files((f"{files.url}/a.pdf", "a.pdf"))] * 40)
    provider = SmtpProvider(options)
    async with a_lane(rows.engine, told, provider, settings=options) as lane:
        await lane.work(records)
    await provider.close()
    assert len(told.of(SENT)) == 40 and len(files.requests) == 1
    for envelope in mails.envelopes:
        message: Any = email.message_from_bytes(envelope.content or b"", policy=email.policy.default)
        assert [part.get_content() for part in message.iter_attachments()] == [PDF]


async def test_trouble_with_files_is_nobody_elses(rows: Rows, files: FileServer, mails: MailServer) -> None:
    """A hundred messages whose files can't be had open no circuit; those without files go out beside them."""
    told, options = Told(), given(files, mails)
    files.status = 503
    without = Options()
    away = [with_files((f"{files.url}/a.pdf?{number}", "a.pdf")) for number in range(60)]
    gone = [with_files((f"{files.url}/gone.pdf", "a.pdf"))]
    refused = [with_files(("http://127.0.0.1/a.pdf", "a.pdf"))]
    records = await asked(rows, *away, without, *gone, *refused, without)
    provider = SmtpProvider(options)
    started = time.monotonic()
    async with a_lane(rows.engine, told, provider, settings=options) as lane:
        await lane.work(records)
    await provider.close()
    assert time.monotonic() - started < 15
    assert len(told.of(SENT)) == len(mails.envelopes) == 2
    assert len(told.of("notification.delay.")) == 60
    reasons = sorted(dict(record.headers)["error-reason"].decode() for record in told.of(DEAD_LETTERS))
    assert reasons == [
        "refused options.email.attachments.0: an address that is not fetched",
        "refused options.email.attachments.0: not found",
    ]
