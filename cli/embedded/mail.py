"""A mail catcher: speaks SMTP, delivers nothing, keeps each mail as a file in COMMS_HOME/mail."""

from __future__ import annotations

import argparse
import asyncio
import itertools
import logging
import os
import signal
from datetime import UTC, datetime
from pathlib import Path

from aiosmtpd.smtp import SMTP, Envelope, Session

from cli.embedded.home import Home
from cli.embedded.parts import Part, accepts
from cli.embedded.ports import LOOPBACK, Ports
from cli.embedded.programs import python_environment, python_module

_SIZE_LIMIT_BYTES = 32 * 2**20


class MailFolder:
    """A folder of caught mails, `<UTC time>-<process>-<number>.eml`: by name they are in order of arrival."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._numbers = itertools.count(1)

    def add(self, envelope: Envelope) -> Path:
        """Writes one mail, whole or not at all: before its own, unchanged bytes the envelope as two headers.

        Without fsync: a catcher's mails may be lost with the machine, not with the process.
        """
        time = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%f")
        name = f"{time}-{os.getpid()}-{next(self._numbers)}.eml"
        unfinished = self.path / f".{name}"
        unfinished.write_bytes(_envelope_headers(envelope) + (envelope.original_content or b""))
        final = self.path / name
        unfinished.rename(final)
        return final


class Catcher:
    """aiosmtpd's handler: takes everything."""

    def __init__(self, folder: MailFolder) -> None:
        self._folder = folder

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        self._folder.add(envelope)
        return "250 OK"


def prepare(home: Home, ports: Ports) -> Part:
    port = ports.take("mail")
    return Part(
        name="mail",
        command=python_module("cli.embedded.mail", "--port", str(port), "--folder", str(home.mail)),
        env=python_environment(),
        ready=lambda: accepts(port),
        gives={
            "EMAIL_PROVIDERS": "smtp",
            "SMTP_HOST": LOOPBACK,
            "SMTP_PORT": str(port),
            "SMTP_TLS": "none",
        },
    )


def _envelope_headers(envelope: Envelope) -> bytes:
    recipients = ", ".join(envelope.rcpt_tos)
    headers = f"X-Envelope-From: {envelope.mail_from or '<>'}\r\nX-Envelope-To: {recipients}\r\n"
    return headers.encode("utf-8", "surrogateescape")


async def _serve(port: int, folder: Path) -> None:
    catcher = Catcher(MailFolder(folder))
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(catcher, hostname="localhost", enable_SMTPUTF8=True, data_size_limit=_SIZE_LIMIT_BYTES),
        host=LOOPBACK,
        port=port,
        backlog=1024,
    )
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    async with server:
        await stopped.wait()


def _main() -> None:
    import uvloop

    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    # It would log addresses, and takes half of the time to prepare what is then not written.
    logging.getLogger("mail").disabled = True
    uvloop.run(_serve(arguments.port, arguments.folder))


if __name__ == "__main__":
    _main()
