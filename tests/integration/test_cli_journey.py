"""The commands and the demo against the whole service: API, lanes, a mail catcher."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from cli.commands.demo import run_demo
from cli.embedded.home import Home, write_atomically
from models.enums import Channel
from streams.providers.smtp import SmtpProvider
from tests.fixtures.api import an_api
from tests.fixtures.service import a_service
from tests.fixtures.stack import Databases, Identity, Mailbox

ROOT = Path(__file__).parents[2]


@dataclass
class Installation:
    """A running service as `comms up` would leave it: a home whose env file tells where everything is."""

    home: Home
    settings: dict[str, str]

    async def comms(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command that knows nothing but COMMS_HOME."""
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "COVERAGE_PROCESS_START")}
        return await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-P", "-m", "cli.main", *arguments],
            env={**kept, "PYTHONPATH": str(ROOT), "COMMS_HOME": str(self.home.path)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )


@pytest.fixture(scope="module")
async def installation(
    tmp_path_factory: pytest.TempPathFactory,
    kafka: str,
    postgres: Databases,
    migrated: str,
    valkey: str,
    identity: Identity,
    mailbox: Mailbox,
) -> AsyncIterator[Installation]:
    home = Home.open(tmp_path_factory.mktemp("home") / "comms")
    write_atomically(home.data / "identity.secret", identity.key)
    home.mail.rmdir()
    home.mail.symlink_to(mailbox.folder)
    where = {"smtp_host": mailbox.host, "smtp_port": mailbox.port}
    async with a_service(kafka, postgres, migrated, valkey, **where) as service, an_api(service, identity) as api:
        settings = {
            "KAFKA_BOOTSTRAP_SERVERS": kafka,
            "KAFKA_TOPIC_PREFIX": service.settings.kafka_topic_prefix,
            "KAFKA_PARTITIONS": str(service.settings.kafka_partitions),
            "DATABASE_URL": service.settings.database_url,
            "IDENTITY_SERVICE_URL": identity.url,
            "PUBLIC_URL": api.url,
        }
        home.write_env(settings)
        smtp = SmtpProvider(service.settings)
        async with service.worker(providers={Channel.EMAIL: (smtp,)}):
            yield Installation(home, settings)
            await smtp.close()


async def test_a_mail_is_sent_and_followed(installation: Installation, mailbox: Mailbox) -> None:
    done = await installation.comms(
        *("send", "--to", "zoe@example.com", "--subject", "Hello {{ name }}", "--text", "It works."),
        *("--data", '{"name": "Zoë"}', "--idempotency-key", "journey-1", "--follow"),
    )

    assert (done.returncode, done.stderr) == (0, "")
    notification_id, status = done.stdout.splitlines()[0].split()
    assert status == "accepted"
    [mail] = [mail for mail in mailbox.messages() if mail["X-Notification-ID"] == notification_id]
    assert mail["Subject"] == "Hello Zoë"
    shown = await installation.comms("status", notification_id, "--json")
    assert json.loads(shown.stdout)["status"] == "sent"
    assert "zoe@example.com" not in shown.stdout


async def test_a_repeat_sends_nothing_again(installation: Installation, mailbox: Mailbox) -> None:
    arguments = ("send", "--to", "max@example.com", "--subject", "s", "--text", "t", "--idempotency-key", "journey-2")
    first = await installation.comms(*arguments, "--follow")
    again = await installation.comms(*arguments, "--json")
    notification_id = first.stdout.split()[0]
    assert json.loads(again.stdout) | {"status_url": ""} == {
        "notification_id": notification_id,
        "status": "sent",
        "status_url": "",
    }
    assert len([mail for mail in mailbox.messages() if mail["X-Notification-ID"] == notification_id]) == 1


async def test_what_can_not_be_sent_ends_with_exit_code_1(installation: Installation) -> None:
    done = await installation.comms(
        "send", "--user", "nobody", "--channel", "sms", "--text", "hi", "--follow", "--json"
    )
    assert done.returncode == 1
    final = json.loads(done.stdout.splitlines()[-1])
    assert (final["status"], final["deliveries"][0]["reason"]) == ("failed", "no_address")
    listed = await installation.comms("dlq", "list", "--json", "--error-class", "no_address")
    assert [letter["notification_id"] for letter in json.loads(listed.stdout)] == [final["notification_id"]]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("send", "--to", "a@example.com", "--text", "no subject"), "content.subject is required for email"),
        (("send", "--user", "a", "--template", "no-such-template"), "template"),
        (("status", "00000000-0000-0000-0000-000000000001"), "There is no such notification"),
    ],
)
async def test_a_refusal_is_one_sentence(installation: Installation, arguments: tuple[str, ...], sentence: str) -> None:
    done = await installation.comms(*arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("comms: ")
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_topics_are_all_there(installation: Installation) -> None:
    done = await installation.comms("topics")
    assert (done.returncode, done.stderr) == (0, "")


async def test_the_demo_shows_two_notifications_on_their_way(installation: Installation) -> None:
    lines: list[str] = []
    environment = {**installation.settings, "COMMS_HOME": str(installation.home.path)}

    await asyncio.to_thread(run_demo, environment, say=lines.append)

    told = "\n".join(lines)
    for step in ("http    202 accepted", "kafka   record on notification.requests.high"):
        assert told.count(step) == 1
    for step in ("email   queued", "email   sent", "in_app  sent", "mail    caught: “Welcome, Ada!”", "inbox   of ada"):
        assert told.count(step) == 2, told
