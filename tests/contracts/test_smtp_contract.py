"""The SMTP provider against aiosmtpd."""

from __future__ import annotations

import asyncio
import email
import email.policy
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from models.deliveries import Delivery
from models.enums import Outcome
from models.errors import Refused
from models.requests import Options
from streams.providers.base import Reach, UnsupportedFeature
from streams.providers.smtp import SmtpProvider
from tests.contracts.deliveries import (
    HTML,
    PASSWORD,
    SUBJECT,
    TEXT,
    TO,
    email_delivery,
    email_options,
    settings,
)
from tests.contracts.mail_server import HANG, Doorman, MailServer, self_signed
from tests.contracts.provider_contract import ProviderContract


def smtp_provider(server: MailServer, *, tls_context: Any = None, **given: Any) -> SmtpProvider:
    fields = {"smtp_host": "127.0.0.1", "smtp_port": server.port, "smtp_connections": 4, **given}
    return SmtpProvider(settings(**fields), tls_context=tls_context)


@pytest.fixture
async def counterpart() -> AsyncIterator[MailServer]:
    server = MailServer()
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def provider(counterpart: MailServer) -> AsyncIterator[SmtpProvider]:
    provider = smtp_provider(counterpart)
    yield provider
    await provider.close()


class TestSmtp(ProviderContract):
    FAILURES: ClassVar[dict[str, Outcome]] = {
        "MAIL 421 4.3.2 shutting down": Outcome.RETRY,
        "MAIL 451 4.3.0 try later": Outcome.RETRY,
        "MAIL 530 5.7.0 authentication required": Outcome.BROKEN,
        "MAIL 550 5.1.8 bad sender domain": Outcome.PERMANENT,
        "MAIL 553 5.7.1 sender not owned": Outcome.PERMANENT,
        f"RCPT 450 4.2.0 <{TO}> greylisted": Outcome.RETRY,
        f"RCPT 550 5.1.1 <{TO}> no such user": Outcome.TARGET_DEAD,
        "RCPT 550 5.1.2 no such domain": Outcome.TARGET_DEAD,
        "RCPT 556 5.1.10 null MX": Outcome.TARGET_DEAD,
        f"RCPT 550 <{TO}> not here": Outcome.PERMANENT,
        "RCPT 550 5.7.1 blocked": Outcome.PERMANENT,
        "RCPT 552 5.2.2 mailbox full": Outcome.PERMANENT,
        "RCPT 421 4.7.0 too many": Outcome.RETRY,
        "DATA 421 4.3.2 shutting down": Outcome.RETRY,
        f"DATA 451 4.7.1 {SUBJECT} try later": Outcome.RETRY,
        "DATA 550 5.1.1 user unknown": Outcome.TARGET_DEAD,
        "DATA 552 5.3.4 message too big": Outcome.PERMANENT,
        f"DATA 554 5.7.1 spam: {SUBJECT}": Outcome.PERMANENT,
        "DATA 535 5.7.8 credentials expired": Outcome.BROKEN,
    }
    AWAY: ClassVar[frozenset[str]] = frozenset(how for how in FAILURES if " 421 " in how)

    def delivery(self) -> Delivery:
        return email_delivery()

    async def test_the_message_arrives_as_written(self, provider: SmtpProvider, counterpart: MailServer) -> None:
        options = email_options(
            from_="Björn Acme <bjorn@acme.example>",
            reply_to="help@acme.example",
            cc=("boss@example.com", TO.upper(), "boss@example.com"),
            headers={"X-Campaign": "späte Grüße"},
            tags=("invoice", "q4"),
        )
        delivery = email_delivery(options=options, generation=2)
        result = await provider.send(delivery)
        (envelope,) = counterpart.envelopes
        assert envelope.mail_from == "bjorn@acme.example"
        assert envelope.rcpt_tos == [TO, "boss@example.com"]
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert message["From"] == "Björn Acme <bjorn@acme.example>"
        assert (message["To"], message["Cc"]) == (TO, "boss@example.com")
        assert message["Reply-To"] == "help@acme.example"
        assert message["Subject"] == SUBJECT
        assert message["X-Campaign"] == "späte Grüße"
        assert message["X-Notification-ID"] == str(delivery.notification_id)
        assert message.get_all("X-Tag") == ["invoice", "q4"]
        assert message["Message-ID"] == f"<{delivery.delivery_id}.2@acme.example>"
        assert result.provider_message_id == f"{delivery.delivery_id}.2@acme.example"
        assert message.get_content_type() == "multipart/alternative"
        assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
        bodies = [part.get_content() for part in message.iter_parts()]
        assert bodies == [TEXT.replace("\n", "\r\n"), HTML.replace("\n", "\r\n")]

    async def test_connections_are_used_again_and_limited(
        self, provider: SmtpProvider, counterpart: MailServer
    ) -> None:
        for _ in range(5):
            await provider.send(self.delivery())
        assert counterpart.sessions == 1
        await asyncio.gather(*(provider.send(self.delivery()) for _ in range(40)))
        assert counterpart.sessions == 4

    async def test_a_refusal_keeps_the_connection(self, provider: SmtpProvider, counterpart: MailServer) -> None:
        counterpart.misbehave("RCPT 550 5.1.1 no such user")
        for _ in range(3):
            assert (await provider.send(self.delivery())).outcome is Outcome.TARGET_DEAD
        counterpart.behave()
        assert (await provider.send(self.delivery())).outcome is Outcome.SENT
        assert counterpart.sessions == 1

    async def test_a_connection_that_died_idle_costs_nothing(
        self, provider: SmtpProvider, counterpart: MailServer
    ) -> None:
        await provider.send(self.delivery())
        counterpart.hang_up()
        assert (await provider.send(self.delivery())).outcome is Outcome.SENT
        assert counterpart.sessions == 2

    async def test_421_on_an_idle_connection_begins_anew_once(
        self, provider: SmtpProvider, counterpart: MailServer
    ) -> None:
        await provider.send(self.delivery())
        counterpart.misbehave("MAIL 421 4.4.2 idle for too long")
        assert (await provider.send(self.delivery())).outcome is Outcome.RETRY
        assert counterpart.sessions == 2

    async def test_silence_after_the_final_dot_is_ambiguous(self, counterpart: MailServer) -> None:
        provider = smtp_provider(counterpart, provider_timeout_seconds=0.3)
        counterpart.misbehave(HANG)
        result = await provider.send(self.delivery())
        assert (result.outcome, result.reason) == (Outcome.AMBIGUOUS, "timeout")

    async def test_waiting_for_a_connection_ends_in_time(self, counterpart: MailServer) -> None:
        provider = smtp_provider(counterpart, provider_timeout_seconds=0.3, smtp_connections=1)
        counterpart.misbehave(HANG)
        results = await asyncio.gather(provider.send(self.delivery()), provider.send(self.delivery()))
        assert [result.outcome for result in results] == [Outcome.AMBIGUOUS, Outcome.RETRY]

    async def test_a_refused_copy_holds_nothing_up(self, provider: SmtpProvider, counterpart: MailServer) -> None:
        counterpart.replies["RCPT gone@example.com"] = "550 5.1.1 no such user"
        delivery = email_delivery(options=email_options(cc=("gone@example.com", "here@example.com")))
        result = await provider.send(delivery)
        assert (result.outcome, result.reason) == (Outcome.SENT, "cc refused 550 5.1.1")
        assert counterpart.envelopes[0].rcpt_tos == [TO, "here@example.com"]

    async def test_with_copies_a_late_refusal_condemns_nobody(
        self, provider: SmtpProvider, counterpart: MailServer
    ) -> None:
        counterpart.misbehave("DATA 550 5.1.1 user unknown")
        result = await provider.send(email_delivery(options=email_options(cc=("here@example.com",))))
        assert result.outcome is Outcome.PERMANENT

    async def test_what_it_cannot_do_is_refused_by_name(self, provider: SmtpProvider, counterpart: MailServer) -> None:
        with pytest.raises(UnsupportedFeature, match=r"^options\.provider\.asm: not offered by smtp$"):
            await provider.send(email_delivery(options=Options(provider={"asm": {"group_id": 1}})))
        assert counterpart.envelopes == []

    async def test_unsafe_input_is_permanent_and_opens_no_connection(
        self, provider: SmtpProvider, counterpart: MailServer
    ) -> None:
        result = await provider.send(email_delivery(to="ada@example.com, eve@example.com"))
        assert (result.outcome, result.reason) == (Outcome.PERMANENT, "refused recipient.email")
        assert result.reach is Reach.NOT_ASKED
        assert counterpart.sessions == 0


class TestLoginAndTls:
    @pytest.fixture
    def doorman(self) -> Doorman:
        return Doorman("mailer", PASSWORD)

    @pytest.fixture
    async def server(self, doorman: Doorman, tmp_path: Path) -> AsyncIterator[MailServer]:
        context, self.trust = self_signed(tmp_path)
        server = MailServer(tls_context=context, require_starttls=True, authenticator=doorman, auth_required=True)
        await server.start()
        yield server
        await server.stop()

    def provider(self, server: MailServer, **given: Any) -> SmtpProvider:
        fields = {"smtp_tls": "starttls", "smtp_username": "mailer", "smtp_password": PASSWORD, **given}
        return smtp_provider(server, tls_context=self.trust, **fields)

    async def test_starttls_and_login(self, server: MailServer) -> None:
        provider = self.provider(server)
        results = [await provider.send(email_delivery()) for _ in range(2)]
        await provider.close()
        assert [result.outcome for result in results] == [Outcome.SENT, Outcome.SENT]
        assert (server.secure_messages, server.sessions) == (2, 1)

    async def test_a_wrong_password_is_broken_and_not_told(self, server: MailServer) -> None:
        result = await self.provider(server, smtp_password="wrong-secret").send(email_delivery())
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "535 5.7.8")
        assert "wrong-secret" not in repr(result)

    async def test_a_login_server_that_is_away_is_retry(self, server: MailServer, doorman: Doorman) -> None:
        doorman.failure = "454 4.7.0 Temporary authentication failure"
        assert (await self.provider(server).send(email_delivery())).outcome is Outcome.RETRY

    async def test_no_login_where_one_is_needed_is_broken(self, server: MailServer) -> None:
        result = await self.provider(server, smtp_username=None, smtp_password=None).send(email_delivery())
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "530 5.7.0")

    async def test_a_certificate_nobody_vouches_for_is_broken(self, server: MailServer) -> None:
        self.trust = None
        result = await self.provider(server).send(email_delivery())
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "certificate refused")

    async def test_a_server_without_starttls_is_broken(self, counterpart: MailServer, tmp_path: Path) -> None:
        _, self.trust = self_signed(tmp_path)
        result = await self.provider(counterpart).send(email_delivery())
        assert (result.outcome, result.reason) == (Outcome.BROKEN, "starttls or login not offered")
        assert counterpart.envelopes == []

    async def test_implicit_tls(self, tmp_path: Path) -> None:
        context, self.trust = self_signed(tmp_path)
        server = MailServer(implicit_tls=context)
        await server.start()
        provider = self.provider(server, smtp_tls="tls", smtp_username=None, smtp_password=None)
        result = await provider.send(email_delivery())
        await provider.close()
        await server.stop()
        assert (result.outcome, server.secure_messages) == (Outcome.SENT, 1)

    def test_a_missing_host_is_said_at_the_start(self) -> None:
        with pytest.raises(Refused, match="SMTP_HOST: is not set"):
            SmtpProvider(settings())

    def test_a_wrong_sender_is_said_at_the_start(self) -> None:
        with pytest.raises(Refused, match="EMAIL_FROM"):
            SmtpProvider(settings(smtp_host="mail.test", email_from="a@b.example, c@d.example"))
