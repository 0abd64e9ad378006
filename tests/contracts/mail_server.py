# ruff: noqa: N802  the names are aiosmtpd's
"""aiosmtpd as the counterpart of the SMTP provider: another implementation of the protocol, with scripted replies."""

from __future__ import annotations

import asyncio
import datetime
import email
import ipaddress
import ssl
from pathlib import Path
from typing import Any

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

HANG = "hang"


class MailServer:
    """An SMTP server on loopback. `replies` holds what it says by verb, or by `RCPT <address>`."""

    def __init__(self, *, implicit_tls: ssl.SSLContext | None = None, **smtp: Any) -> None:
        self.replies: dict[str, str] = {}
        self.envelopes: list[Envelope] = []
        self.sessions = 0
        self.secure_messages = 0
        self._implicit_tls = implicit_tls
        self._smtp = smtp
        self._server: asyncio.Server | None = None
        self._protocols: list[SMTP] = []
        self.port = 0

    async def start(self) -> None:
        """Listens on a free port."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocol, "127.0.0.1", self.port, ssl=self._implicit_tls)
        self.port = self._server.sockets[0].getsockname()[1]

    def _protocol(self) -> SMTP:
        loop = asyncio.get_running_loop()
        protocol = SMTP(self, hostname="mail.test", loop=loop, enable_SMTPUTF8=False, **self._smtp)
        self._protocols.append(protocol)
        self.sessions += 1
        return protocol

    async def stop(self) -> None:
        """Stops listening and hangs up."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self.hang_up()

    def hang_up(self) -> None:
        """Ends all connections from this side."""
        for protocol in self._protocols:
            if protocol.transport is not None:
                protocol.transport.close()
        self._protocols.clear()

    def taken(self) -> list[str]:
        """Delivery ids, from the Message-ID."""
        parsed = [email.message_from_bytes(envelope.content) for envelope in self.envelopes]
        return [message["Message-ID"].strip("<>").split(".", 1)[0] for message in parsed]

    def misbehave(self, how: str) -> None:
        """`VERB reply`, as in `RCPT 550 5.1.1 no such user`; or `hang`, at the end of DATA."""
        verb, _, reply = ("DATA", "", HANG) if how == HANG else how.partition(" ")
        self.replies[verb] = reply

    def behave(self) -> None:
        """Says yes again."""
        self.replies.clear()

    async def _said(self, verb: str) -> str | None:
        reply = self.replies.get(verb)
        if reply == HANG:
            await asyncio.sleep(3600)
        return reply

    async def handle_MAIL(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """MAIL FROM."""
        if (reply := await self._said("MAIL")) is not None:
            return reply
        envelope.mail_from = address
        return "250 2.1.0 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        """RCPT TO."""
        for verb in (f"RCPT {address}", "RCPT"):
            if (reply := await self._said(verb)) is not None:
                return reply
        envelope.rcpt_tos.append(address)
        return "250 2.1.5 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """The final dot."""
        if (reply := await self._said("DATA")) is not None:
            return reply
        self.envelopes.append(envelope)
        self.secure_messages += session.ssl is not None or self._implicit_tls is not None
        return "250 2.0.0 OK queued"


class Doorman:
    """Lets one user in, or whoever `accepts` says."""

    def __init__(self, username: str, password: str) -> None:
        self._expected = LoginPassword(username.encode(), password.encode())
        self.failure: str | None = None

    def __call__(self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any) -> AuthResult:
        if self.failure is not None:
            return AuthResult(success=False, handled=False, message=self.failure)
        return AuthResult(success=data == self._expected, handled=False)


def self_signed(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """TLS for a server on 127.0.0.1, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail.test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(address, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "cert.pem").write_bytes(pem)
    (folder / "key.pem").write_bytes(secret)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    client = ssl.create_default_context(cadata=pem.decode())
    return server, client
