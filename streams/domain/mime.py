"""Builds an e-mail as the bytes that SMTP carries. Pure: what it needs to know of the world is given to it.

A message costs tens of microseconds because it is put together by hand: the stdlib's `EmailMessage` takes 1.1 ms
in quoted-printable, and its header encoder is the one of CVE-2024-6923 (see `mail_headers`). The shape hardly varies:
one text or HTML part, or both as `multipart/alternative`; with files, that and the files as `multipart/mixed`; all in
base64. Base64 is more than a way through old servers: no byte of the content reaches the wire as itself, so no line of
it can end the message early (SMTP smuggling, CVE-2023-51764), start with a dot, or grow too long.
"""

from __future__ import annotations

import binascii
import struct
from collections.abc import Mapping, Sequence
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from typing import NamedTuple

from models.deliveries import Delivery
from models.errors import Refused
from models.requests import EmailOptions
from streams.domain.attachments import File, check_attachments
from streams.domain.mail_headers import (
    Mailbox,
    custom_headers,
    mailbox,
    mailbox_header,
    safe_text,
    text_header,
)
from streams.domain.unsubscribe import unsubscribe_headers

_BASE64_LINE = 76
_MOST_LINES_AT_ONCE = 500


class Envelope(NamedTuple):
    """Who writes to whom, and all headers that a caller may choose: checked, not yet written."""

    sender: Mailbox
    to: Mailbox
    #: Copies; none of them is `to` or there twice.
    cc: tuple[Mailbox, ...]
    reply_to: Mailbox | None
    subject: str
    headers: tuple[tuple[str, str], ...]
    tags: tuple[str, ...]

    @property
    def recipients(self) -> tuple[str, ...]:
        """Every address that gets the message, `to` first."""
        return (self.to.address, *(copy.address for copy in self.cc))


class Mail(NamedTuple):
    """A message ready for SMTP: the envelope's addresses and the bytes after DATA."""

    sender: str
    recipients: tuple[str, ...]
    #: Without its angle brackets; the same in every attempt of one generation of a delivery.
    message_id: str
    data: bytes


def check_email_options(options: EmailOptions) -> None:
    """Says early what `build_mail` would refuse.

    Raises:
        Refused: naming the field, as in `options.email.reply_to`.
    """
    if options.from_ is not None:
        mailbox("options.email.from", options.from_)
    if options.reply_to is not None:
        mailbox("options.email.reply_to", options.reply_to)
    for copy in options.cc:
        mailbox("options.email.cc", copy)
    custom_headers("options.email.headers", options.headers)
    for tag in options.tags:
        _safe_tag(tag)
    check_attachments(options.attachments)


def check_email_content(content: Mapping[str, str]) -> None:
    """Says of rendered parts what `build_mail` would refuse.

    Raises:
        Refused: without a subject or a body, or with a subject that no header can hold.
    """
    _subject(content)
    if not content.get("text") and not content.get("html"):
        raise Refused("content", "an e-mail needs a text or an html part")


@lru_cache(maxsize=256)
def sender_mailbox(field: str, value: str) -> Mailbox:
    """The mailbox of a From line; cached, as most messages share one.

    Raises:
        Refused: when it isn't exactly one address.
    """
    return mailbox(field, value)


def envelope(delivery: Delivery, *, default_from: str) -> Envelope:
    """Checks all that ends in the headers or the envelope of a mail, whoever carries it.

    Raises:
        Refused: naming the field.
    """
    options = delivery.options.email or _NO_OPTIONS
    check_email_content(delivery.content)
    sender = _sender(options, default_from)
    to = mailbox("recipient.email", delivery.to or "")
    return Envelope(
        sender=sender,
        to=to,
        cc=_copies(options, to),
        reply_to=mailbox("options.email.reply_to", options.reply_to) if options.reply_to else None,
        subject=_subject(delivery.content),
        headers=_headers(delivery, options),
        tags=tuple(dict.fromkeys(map(_safe_tag, options.tags))),
    )


_NO_OPTIONS = EmailOptions()


def _headers(delivery: Delivery, options: EmailOptions) -> tuple[tuple[str, str], ...]:
    theirs = custom_headers("options.email.headers", options.headers) if options.headers else ()
    return (*theirs, *unsubscribe_headers(delivery.unsubscribe_url, options.headers))


def _sender(options: EmailOptions, default_from: str) -> Mailbox:
    if options.from_ is None:
        return sender_mailbox("EMAIL_FROM", default_from)
    return sender_mailbox("options.email.from", options.from_)


def _copies(options: EmailOptions, to: Mailbox) -> tuple[Mailbox, ...]:
    """Without repeats: SendGrid refuses them, and nobody wants the mail twice."""
    if not options.cc:
        return ()
    found = {to.address.lower(): to}
    for copy in options.cc:
        box = mailbox("options.email.cc", copy)
        found.setdefault(box.address.lower(), box)
    return tuple(found.values())[1:]


def _safe_tag(tag: str) -> str:
    tag = safe_text("options.email.tags", tag)
    if not tag:
        raise Refused("options.email.tags", "must not be empty")
    return tag


def _subject(content: Mapping[str, str]) -> str:
    return _checked_subject(content.get("subject", ""))


@lru_cache(maxsize=256)
def _checked_subject(text: str) -> str:
    """Cached, as the messages of a template often share one."""
    subject = safe_text("content.subject", text)
    if not subject:
        raise Refused("content.subject", "an e-mail needs a subject")
    return subject


def build_mail(delivery: Delivery, *, default_from: str, now: datetime, files: Sequence[File] = ()) -> Mail:
    """The whole message of a delivery; `now` is aware and becomes its Date, `files` are its attachments.

    Raises:
        Refused: naming the field, when an address, a header or the content can't be sent safely.
    """
    to_whom = envelope(delivery, default_from=default_from)
    message_id = f"{delivery.delivery_id}.{delivery.generation}@{to_whom.sender.domain}"
    head = _head(delivery, to_whom, message_id, now)
    return Mail(
        sender=to_whom.sender.address,
        recipients=to_whom.recipients,
        message_id=message_id,
        data=(head + _with_files(delivery, _body(delivery), files)).encode("ascii"),
    )


def _head(delivery: Delivery, to_whom: Envelope, message_id: str, now: datetime) -> str:
    lines = [
        f"Date: {_date(now.replace(microsecond=0))}",
        _from_header(to_whom.sender),
        mailbox_header("To", to_whom.to),
        _subject_header(to_whom.subject),
        f"Message-ID: <{message_id}>",
        f"X-Notification-ID: {delivery.notification_id}",
        "MIME-Version: 1.0",
    ]
    if to_whom.cc:
        lines.append(mailbox_header("Cc", *to_whom.cc))
    if to_whom.reply_to:
        lines.append(mailbox_header("Reply-To", to_whom.reply_to))
    lines += [text_header("X-Tag", tag) for tag in to_whom.tags]
    lines += [text_header(name, value) for name, value in to_whom.headers]
    return "\r\n".join(lines) + "\r\n"


@lru_cache(maxsize=256)
def _from_header(sender: Mailbox) -> str:
    return mailbox_header("From", sender)


@lru_cache(maxsize=256)
def _subject_header(subject: str) -> str:
    return text_header("Subject", subject)


@lru_cache(maxsize=8)
def _date(second: datetime) -> str:
    """Cached: a second has many messages."""
    return format_datetime(second)


def _with_files(delivery: Delivery, body: str, files: Sequence[File]) -> str:
    if not files:
        return body
    boundary = f"=_files_{delivery.delivery_id.hex}"
    parts = "".join(f"--{boundary}\r\n{part}" for part in (body, *(file.part() for file in files)))
    return f'Content-Type: multipart/mixed; boundary="{boundary}"\r\n\r\n{parts}--{boundary}--\r\n'


def _body(delivery: Delivery) -> str:
    parts = [
        _part(subtype, name, delivery.content[name])
        for subtype, name in (("plain", "text"), ("html", "html"))
        if delivery.content.get(name)
    ]
    if len(parts) == 1:
        return parts[0]
    # No base64 line holds "_", so the boundary can't occur in a part. Readers show the last part they can.
    boundary = f"=_{delivery.delivery_id.hex}"
    return (
        f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n'
        + "".join(f"--{boundary}\r\n{part}" for part in parts)
        + f"--{boundary}--\r\n"
    )


def _part(subtype: str, name: str, content: str) -> str:
    return (
        f"Content-Type: text/{subtype}; charset=utf-8\r\n"
        f"Content-Transfer-Encoding: base64\r\n\r\n{_base64(f'content.{name}', content)}"
    )


def _base64(field: str, content: str) -> str:
    """The content with CRLF line ends and without NULs, in lines of base64."""
    lines = content
    if "\r" in content or "\x00" in content:
        lines = content.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")
    try:
        raw = lines.replace("\n", "\r\n").encode()
    except UnicodeEncodeError:
        raise Refused(field, "must not contain lone surrogates") from None
    return _in_lines(binascii.b2a_base64(raw, newline=False)).decode("ascii")


def _in_lines(encoded: bytes) -> bytes:
    full = len(encoded) // _BASE64_LINE
    rest = encoded[full * _BASE64_LINE :]
    lines = _cutter(full).unpack_from(encoded) if full <= _MOST_LINES_AT_ONCE else _cut(encoded, full)
    return b"\r\n".join((*lines, rest, b"") if rest else (*lines, b""))


@lru_cache(maxsize=256)
def _cutter(lines: int) -> struct.Struct:
    """Cuts in a quarter of the time that slices take; a mail has some dozens of lines."""
    return struct.Struct(f"{_BASE64_LINE}s" * lines)


def _cut(encoded: bytes, full: int) -> list[bytes]:
    return [encoded[start : start + _BASE64_LINE] for start in range(0, full * _BASE64_LINE, _BASE64_LINE)]
