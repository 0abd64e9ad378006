"""SMTP: to one relay, by a pool of connections that stay open.

The dialogue is spoken command by command instead of by `sendmail()`, because the outcome hangs on how far it got:
before the final dot of DATA nothing was sent, whatever happened; after it, silence means that nobody knows.

Copies: when the server refuses a Cc but takes the To, the message goes to those it took, is `sent`, and its reason
begins with `cc refused`. The person it is for doesn't wait for the address of a copy, and a retry would reach the
others twice.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar, Self, cast

import aiosmtplib

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import Settings
from streams.attachments import Attachments
from streams.domain.attachments import File
from streams.domain.mime import Mail, build_mail, sender_mailbox
from streams.providers.attached import built, with_files
from streams.providers.base import DeliveryResult, NotificationProvider, Reach
from streams.providers.features import refuse_unsupported
from streams.providers.smtp_connections import Connection, SmtpConnections

#: Ours ends before the lane's own limit does, so that the outcome is decided here, where it is known what was written.
_SHARE_OF_TIMEOUT = 0.95
_START_INPUT = 354
_CLOSING = 421
_ENHANCED = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")

#: "Authentication required / too weak / failed / needs encryption": our account, not this message.
#: https://www.iana.org/assignments/smtp-enhanced-status-codes and RFC 4954 section 6
_ACCOUNT_REFUSED = frozenset({530, 534, 535, 538})
#: The mailbox or its domain isn't there: https://www.rfc-editor.org/rfc/rfc3463#section-3.2 (5.1.10: RFC 7505).
#: 5.1.4 (ambiguous), 5.1.7 and 5.1.8 (about the sender) and 5.2.x (full, disabled) don't condemn an address.
_DEAD_MAILBOX = frozenset({"5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10"})


@dataclass(frozen=True, slots=True)
class Reply:
    """A server's reply without its text, which may repeat addresses and content."""

    code: int
    enhanced: str | None = None

    @classmethod
    def of(cls, code: int, message: str) -> Self:
        """Reads the enhanced status code (RFC 2034), if the text begins with one."""
        match = _ENHANCED.match(message)
        return cls(code, match[0] if match else None)

    @property
    def ok(self) -> bool:
        """Whether the server did as it was told."""
        return 200 <= self.code < 300

    def __str__(self) -> str:
        return f"{self.code} {self.enhanced}" if self.enhanced else str(self.code)


def refused_outcome(reply: Reply, *, about_account: bool = False, about_target: bool = False) -> Outcome:
    """What a reply that isn't a yes means. `about_account`: at greeting or login. `about_target`: to its RCPT."""
    if reply.code in _ACCOUNT_REFUSED:
        return Outcome.BROKEN
    if not 500 <= reply.code < 600:
        return Outcome.RETRY
    if about_account:
        return Outcome.BROKEN
    return Outcome.TARGET_DEAD if about_target and reply.enhanced in _DEAD_MAILBOX else Outcome.PERMANENT


@dataclass(slots=True)
class _Dialogue:
    """One message on its way: the connection in use, and whether the server may have taken the message."""

    mail: Mail
    connection: Connection | None = None
    in_doubt: bool = False
    copy_refused: Reply | None = None

    def discard(self) -> None:
        """Drops a connection that is in the middle of something."""
        if self.connection is not None:
            self.connection.client.close()
            self.connection = None


class SmtpProvider(NotificationProvider):
    """Sends e-mail through the relay of `SMTP_HOST`."""

    name: ClassVar[str] = "smtp"
    channel: ClassVar[Channel] = Channel.EMAIL

    def __init__(
        self,
        settings: Settings,
        *,
        attachments: Attachments | None = None,
        tls_context: ssl.SSLContext | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Connects to nothing yet.

        Raises:
            Refused: when a setting is missing or wrong.
        """
        if not settings.smtp_host:
            raise Refused("SMTP_HOST", "is not set")
        sender_mailbox("EMAIL_FROM", settings.email_from)
        self._default_from = settings.email_from
        self._timeout = settings.provider_timeout_seconds * _SHARE_OF_TIMEOUT
        self._attachments = attachments or Attachments(settings)
        self._clock = clock
        self.most_calls = settings.smtp_connections
        self._connections = SmtpConnections(settings, tls_context=tls_context)

    async def close(self) -> None:
        """Says QUIT on all idle connections."""
        await self._connections.close()
        await self._attachments.close()

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """One message; see the module for what becomes of copies."""
        refuse_unsupported(delivery, provider=self.name, attaches=True)
        ends = asyncio.get_running_loop().time() + self._timeout
        return await with_files(self._attachments, delivery, self.name, lambda files: self._send(delivery, files, ends))

    async def _send(self, delivery: Delivery, files: Sequence[File], ends: float) -> DeliveryResult:
        try:
            mail = await built(
                lambda: build_mail(delivery, default_from=self._default_from, now=self._clock(), files=files), files
            )
        except Refused as error:
            return _result(Outcome.PERMANENT, f"refused {error.field}", reach=Reach.NOT_ASKED)
        dialogue = _Dialogue(mail)
        try:
            async with asyncio.timeout_at(ends):
                return await self._deliver(dialogue)
        except (aiosmtplib.SMTPException, OSError) as error:  # TimeoutError is an OSError
            return _failed(error, in_doubt=dialogue.in_doubt)

    async def _deliver(self, dialogue: _Dialogue) -> DeliveryResult:
        await self._connections.acquire_slot()
        try:
            result = await self._converse(dialogue)
            if dialogue.connection is not None:
                self._connections.give_back(dialogue.connection)
                dialogue.connection = None
            return result
        finally:
            dialogue.discard()
            self._connections.release_slot()

    async def _converse(self, dialogue: _Dialogue) -> DeliveryResult:
        reply = await self._begin(dialogue)
        if not reply.ok:
            return _refused(reply)
        for address in dialogue.mail.recipients:
            reply = await _command(dialogue, f"RCPT TO:<{address}>")
            if reply.ok:
                continue
            if address == dialogue.mail.recipients[0]:
                return _refused(reply, about_target=True)
            dialogue.copy_refused = reply
        return await _transmit(dialogue)

    async def _begin(self, dialogue: _Dialogue) -> Reply:
        """MAIL FROM, on an idle connection or a new one.

        An idle one may have died unseen, or be closed with 421 in answer to this very command. Nothing of the message
        was accepted then, so it begins again on a new one, once.
        """
        dialogue.connection = self._connections.idle()
        if dialogue.connection is not None:
            try:
                reply = await _open_envelope(dialogue)
                if reply.code != _CLOSING:
                    return reply
            except (aiosmtplib.SMTPServerDisconnected, ConnectionError):
                pass
            dialogue.discard()
        dialogue.connection = await self._connections.connect()
        return await _open_envelope(dialogue)


async def _open_envelope(dialogue: _Dialogue) -> Reply:
    if dialogue.connection is not None and dialogue.connection.needs_reset:
        await _command(dialogue, "RSET")
    elif dialogue.connection is not None:
        dialogue.connection.needs_reset = True
    return await _command(dialogue, f"MAIL FROM:<{dialogue.mail.sender}>")


async def _command(dialogue: _Dialogue, command: str) -> Reply:
    connection = dialogue.connection
    if connection is None:
        raise aiosmtplib.SMTPServerDisconnected("not connected")
    response = await connection.client.execute_command(command.encode("ascii"))
    return Reply.of(response.code, response.message)


async def _transmit(dialogue: _Dialogue) -> DeliveryResult:
    """DATA, the message and its final dot. From the moment they are written the outcome is in doubt."""
    reply = await _command(dialogue, "DATA")
    connection = dialogue.connection
    if reply.code != _START_INPUT or connection is None or connection.client.protocol is None:
        return _refused(reply)
    protocol = connection.client.protocol
    transport = cast(asyncio.WriteTransport, protocol.transport)
    protocol.write(dialogue.mail.data.replace(b"\r\n.", b"\r\n..") + b".\r\n")
    dialogue.in_doubt = True
    try:
        response = await protocol.read_response()
    except asyncio.CancelledError:
        # A server that stopped reading has not seen the dot: what is still here was not sent.
        dialogue.in_doubt = transport.get_write_buffer_size() == 0
        raise
    connection.needs_reset = False
    reply = Reply.of(response.code, response.message)
    if reply.code == _CLOSING:
        dialogue.discard()
    return _answered(dialogue, reply)


def _answered(dialogue: _Dialogue, reply: Reply) -> DeliveryResult:
    if not reply.ok:
        # Some servers look for the mailbox only now. With copies on board nobody can say whose it is.
        return _refused(reply, about_target=len(dialogue.mail.recipients) == 1)
    note = f"cc refused {dialogue.copy_refused}" if dialogue.copy_refused else None
    return _result(Outcome.SENT, note, message_id=dialogue.mail.message_id)


def _refused(reply: Reply, *, about_target: bool = False) -> DeliveryResult:
    reach = Reach.AWAY if reply.code == _CLOSING else Reach.ANSWERED
    return _result(refused_outcome(reply, about_target=about_target), str(reply), reach=reach)


def _failed(error: Exception, *, in_doubt: bool) -> DeliveryResult:
    """What an exception means; its text is never repeated."""
    if isinstance(error, aiosmtplib.SMTPResponseException) and error.code > 0 and not in_doubt:
        # At greeting or login: who is turned away there is turned away for all messages.
        reply = Reply.of(error.code, error.message)
        return _result(refused_outcome(reply, about_account=True), str(reply), reach=Reach.AWAY)
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in (error, error.__cause__)):
        return _result(Outcome.BROKEN, "certificate refused")
    if isinstance(error, TimeoutError):
        reason = "timeout"
    elif isinstance(error, aiosmtplib.SMTPConnectError):
        reason = "unreachable"
    elif isinstance(error, OSError | aiosmtplib.SMTPResponseException):
        reason = "disconnected"
    else:
        return _result(Outcome.BROKEN, "starttls or login not offered")
    return _result(Outcome.AMBIGUOUS if in_doubt else Outcome.RETRY, reason, reach=Reach.AWAY)


def _result(
    outcome: Outcome, reason: str | None, *, message_id: str | None = None, reach: Reach = Reach.ANSWERED
) -> DeliveryResult:
    return DeliveryResult(
        outcome=outcome,
        provider=SmtpProvider.name,
        reason=reason,
        provider_message_id=message_id,
        reach=reach,
    )
