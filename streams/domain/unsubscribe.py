"""Links by which a person ends what they get (RFC 8058): made for each message, readable by this service alone.

A token holds all that is needed, encrypted: the link works for as long as the key does, whatever was deleted since.
Nobody can read the address in it, nor make one for somebody else.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import NamedTuple
from uuid import UUID

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from models.enums import Channel
from models.settings import Settings
from models.suppressions import EVERYTHING

PATH = "/api/v1/unsubscribe/"
#: Longer addresses are broken by some mail programs.
MAX_CHARACTERS = 400

#: Bound to each token, so that no other use of the key can ever make one.
_PURPOSE = b"comms unsubscribe 1"
#: Of AES-256-SIV (RFC 5297): it needs no nonce, of which a busy service would run out of random ones under one key
#: within weeks, and a fan-out that is repeated makes the same link again.
_KEY_BYTES = 64
_CHANNELS = {Channel.EMAIL: 1, Channel.SMS: 2}
_CHANNEL_OF = {number: channel for channel, number in _CHANNELS.items()}
_HAS_NOTIFICATION = 0x80
_SEPARATOR = "\x1f"


class Leaving(NamedTuple):
    """Who wants to end what."""

    channel: Channel
    address: str
    #: '' for everything.
    category: str
    #: The message that the link stood in.
    notification_id: UUID | None = None


class UnsubscribeLinks:
    """Makes and reads links under one key."""

    def __init__(self, secret_key: str, public_url: str) -> None:
        key = HKDF(algorithm=SHA256(), length=_KEY_BYTES, salt=None, info=_PURPOSE).derive(secret_key.encode())
        self._cipher = AESSIV(key)
        self._base = public_url.rstrip("/") + PATH

    @classmethod
    def of(cls, settings: Settings) -> UnsubscribeLinks | None:
        """Those that mails carry; None without a key, or where nobody has said what this service's address is."""
        if not settings.public_url or "public_url" not in settings.model_fields_set:
            return None
        return cls.reading(settings)

    @classmethod
    def reading(cls, settings: Settings) -> UnsubscribeLinks | None:
        """Those that people come back with; None without a key."""
        return cls(settings.secret_key, settings.public_url) if settings.secret_key else None

    def url(self, leaving: Leaving) -> str:
        """The address that ends it."""
        return self._base + self.token(leaving)

    def token(self, leaving: Leaving) -> str:
        """At most MAX_CHARACTERS. What doesn't fit is left out: first the message, then the category."""
        token = self._sealed(leaving)
        if len(token) > MAX_CHARACTERS:
            token = self._sealed(leaving._replace(notification_id=None))
        if len(token) > MAX_CHARACTERS:
            token = self._sealed(leaving._replace(notification_id=None, category=EVERYTHING))
        return token

    def _sealed(self, leaving: Leaving) -> str:
        sealed = self._cipher.encrypt(_packed(leaving), [_PURPOSE])
        return _encoded(sealed)

    def read(self, token: str) -> Leaving | None:
        """What a token says; None for one that is not ours."""
        if len(token) > MAX_CHARACTERS:
            return None
        try:
            padded = token.encode("ascii") + b"=" * (-len(token) % 4)
            sealed = base64.b64decode(padded, altchars=b"-_", validate=True)
            if _encoded(sealed) != token:  # bits that the last character leaves over: one link has one spelling
                return None
            return _unpacked(self._cipher.decrypt(sealed, [_PURPOSE]))
        except (UnicodeEncodeError, binascii.Error, ValueError, InvalidTag):
            return None


def _encoded(sealed: bytes) -> str:
    return base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()


def _packed(leaving: Leaving) -> bytes:
    marks = _CHANNELS[leaving.channel]
    known = b""
    if leaving.notification_id is not None:
        marks |= _HAS_NOTIFICATION
        known = leaving.notification_id.bytes
    return bytes([marks]) + known + f"{leaving.address}{_SEPARATOR}{leaving.category}".encode()


def _unpacked(raw: bytes) -> Leaving:
    marks, rest = raw[0], raw[1:]
    notification_id = None
    if marks & _HAS_NOTIFICATION:
        notification_id, rest = UUID(bytes=rest[:16]), rest[16:]
    address, _, category = rest.decode().partition(_SEPARATOR)
    return Leaving(
        channel=_CHANNEL_OF[marks & ~_HAS_NOTIFICATION],
        address=address,
        category=category,
        notification_id=notification_id,
    )


def unsubscribe_headers(url: str | None, others: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The headers of RFC 8058; none where there is no link, or where the caller's own headers have one."""
    theirs = {name.lower() for name in others}
    if url is None or theirs & {"list-unsubscribe", "list-unsubscribe-post"}:
        return ()
    return ("List-Unsubscribe", f"<{url}>"), ("List-Unsubscribe-Post", "List-Unsubscribe=One-Click")
