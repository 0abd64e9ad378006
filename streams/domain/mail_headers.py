"""What may stand in a mail header, and how it is written there. Pure.

Everything that a caller can put into a header passes `safe_text` or `mailbox` first. They refuse what could end
a header or start another one, also when it hides in an RFC 2047 encoded word: `email` of Python 3.11.7 and older
decodes such a word and then writes the line break it held as a real one (CVE-2024-6923). The encoder below never
decodes, so the check is the second of two locks.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

from models.addresses import normal_email
from models.errors import Refused

MAX_HEADER_CHARACTERS = 2000
#: RFC 5322 section 2.1.1: a line should have 78 characters at most, and must have 998.
_LINE = 76
_LONGEST_WORD = 900
#: 39 bytes make an encoded word of 64 characters; with a name before it the line stays within RFC 2047's 76.
_ENCODED_WORD_BYTES = 39

#: All that some mail program takes for the end of a line or of a string; TAB is a plain space to all of them.
_CONTROLS = re.compile("[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_ENCODED_WORD = re.compile(r"=\?([^?\s]{0,64})\?([BbQq])\?([^?]*)\?=")
_PRINTABLE_ASCII = re.compile(r"[\x20-\x7e]*")
_HEADER_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,75}")

#: Headers that make up the envelope, the structure or the trust of a message: ours or the servers' to write.
#: Those from `x-smtpapi` on are commands to a vendor that relays the mail; some of them add recipients.
_OURS = re.compile(
    r"""from|to|b?cc|subject|date|message-id|reply-to|sender|return-path|received|received-spf|mime-version
    |content-.*|resent-.*|delivered-to|envelope-to|apparently-to|errors-to|return-receipt-to
    |dkim-.*|arc-.*|domainkey-signature|authentication-results|x-notification-id|x-tag
    |x-smtpapi|x-msys-api|x-(sg|mc|mj|pm|ses|mailgun)-.*""",
    re.VERBOSE | re.IGNORECASE,
)
#: Headers with a grammar of their own, where an encoded word would be no value at all.
_STRUCTURED = re.compile(
    r"list-.*|references|in-reply-to|precedence|auto-submitted|importance|(x-)?priority", re.IGNORECASE
)

#: `Name <address>`; the name is a quoted string, or words without the characters RFC 5322 gives a meaning.
_NAMED_MAILBOX = re.compile(
    r'\s*(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>[^"<>()\[\]\\,;:@]*?))\s*<(?P<address>[^<>\s]+)>\s*'
)


class Mailbox(NamedTuple):
    """One address, normalised, and the name shown beside it."""

    address: str
    name: str = ""

    @property
    def domain(self) -> str:
        """The part after the @, in ASCII."""
        return self.address.rpartition("@")[2]


def safe_text(field: str, value: str) -> str:
    """The text as it may stand in one header: stripped, tabs made spaces.

    Raises:
        Refused: when it is too long, or holds, openly or in an encoded word, what could end the header.
    """
    value = value.strip().replace("\t", " ")
    if len(value) > MAX_HEADER_CHARACTERS:
        raise Refused(field, f"must not be longer than {MAX_HEADER_CHARACTERS} characters")
    if _CONTROLS.search(value):
        raise Refused(field, "must not contain line breaks or control characters")
    if "=?" in value:
        _refuse_hidden_controls(field, value)
    return value


def _refuse_hidden_controls(field: str, value: str) -> None:
    """Decodes encoded words as a lax mail program would: also those inside of others."""
    pending = [value]
    for _ in range(4):
        pending = [decoded for text in pending for decoded in _decoded_words(field, text)]
        if any(_CONTROLS.search(text) for text in pending):
            raise Refused(field, "must not contain line breaks or control characters, encoded ones neither")
    if pending:
        raise Refused(field, "must not nest encoded words")


def _decoded_words(field: str, text: str) -> Iterator[str]:
    for charset, encoding, payload in _ENCODED_WORD.findall(text):
        try:
            raw = _decoded_payload(encoding, payload)
            decoded = _decoded_bytes(raw, charset.partition("*")[0])
        except ValueError:
            raise Refused(field, "must not contain undecodable encoded words") from None
        # The bytes count as well as the text: who doesn't know the charset passes them on as they are.
        yield decoded if not any(byte in raw for byte in b"\r\n\x00") else "\n"


def _decoded_payload(encoding: str, payload: str) -> bytes:
    if encoding in "Bb":
        return base64.b64decode(payload + "=" * (-len(payload) % 4))
    return binascii.a2b_qp(payload, header=True)


def _decoded_bytes(raw: bytes, charset: str) -> str:
    try:
        return raw.decode(charset or "utf-8")
    except LookupError:
        return raw.decode("ascii", errors="ignore")


def mailbox(field: str, value: str) -> Mailbox:
    """Exactly one address, alone or as `Name <address>`.

    Raises:
        Refused: for groups, lists, routes, comments, and whatever else is not one mailbox.
    """
    if _CONTROLS.search(value):
        raise Refused(field, "must not contain line breaks or control characters")
    match = _NAMED_MAILBOX.fullmatch(value)
    if match is None:
        return Mailbox(_address(field, value))
    quoted = match["quoted"]
    name = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else match["plain"]
    return Mailbox(_address(field, match["address"]), safe_text(field, name))


def _address(field: str, value: str) -> str:
    try:
        return normal_email(value)
    except ValueError as error:
        raise Refused(field, str(error)) from None


@lru_cache(maxsize=1024)
def check_header_name(field: str, name: str) -> None:
    """Refuses names that are no token, or that are not the caller's to set."""
    if not _HEADER_NAME.fullmatch(name):
        raise Refused(field, "a header's name has letters, digits, - and _ only, 76 at most")
    if _OURS.fullmatch(name):
        raise Refused(field, "must not set a header of the envelope, the structure or the service")


def custom_headers(field: str, headers: dict[str, str]) -> tuple[tuple[str, str], ...]:
    """The caller's own headers, checked.

    Raises:
        Refused: see `check_header_name` and `safe_text`; also for a name given twice.
    """
    seen: set[str] = set()
    checked = []
    for name, value in headers.items():
        check_header_name(field, name)
        if name.lower() in seen:
            raise Refused(field, "must not name a header twice")
        seen.add(name.lower())
        checked.append((name, _checked_value(field, name, value)))
    return tuple(checked)


def _checked_value(field: str, name: str, value: str) -> str:
    value = safe_text(field, value)
    if _STRUCTURED.fullmatch(name) and not _fits_plainly(value):
        raise Refused(field, "this header takes ASCII only, in words of 900 characters at most")
    return value


def encoded_text(value: str) -> str:
    """A checked text as one line of header: plain where it can be, else in encoded words with spaces between.

    Text that only looks like an encoded word is encoded too, so that it is read as it was written.
    """
    return value if _fits_plainly(value) else " ".join(_encoded_words(value))


def text_header(name: str, value: str) -> str:
    """A whole unstructured header without its final line break, folded."""
    return folded(f"{name}: {encoded_text(value)}")


def mailbox_header(name: str, *boxes: Mailbox) -> str:
    """A whole header of addresses without its final line break, one address a line."""
    return f"{name}: " + ",\r\n ".join(_written(box) for box in boxes)


def _written(box: Mailbox) -> str:
    if not box.name:
        return box.address
    if _fits_plainly(box.name) and len(box.name) <= _LINE:
        escaped = box.name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"\r\n <{box.address}>' if len(escaped) > 40 else f'"{escaped}" <{box.address}>'
    return "\r\n ".join((*_encoded_words(box.name), f"<{box.address}>"))


def folded(line: str) -> str:
    """Breaks a header at single spaces, never right after its name."""
    if len(line) <= _LINE:
        return line
    name, first, *words = line.split(" ")
    lines: list[str] = []
    current = f"{name} {first}"
    for word in words:
        # An empty word stands for a double space: a break there could leave a line of white space alone.
        if word and not current.endswith(" ") and len(current) + 1 + len(word) > _LINE:
            lines.append(current)
            current = word
        else:
            current = f"{current} {word}"
    return "\r\n ".join((*lines, current))


def _fits_plainly(value: str) -> bool:
    return (
        _PRINTABLE_ASCII.fullmatch(value) is not None
        and "=?" not in value
        and (len(value) <= _LONGEST_WORD or _is_foldable(value))
    )


def _is_foldable(value: str) -> bool:
    return "  " not in value and max(map(len, value.split(" "))) <= _LONGEST_WORD


def _encoded_words(value: str) -> Iterator[str]:
    for chunk in _utf8_chunks(value):
        yield f"=?utf-8?b?{binascii.b2a_base64(chunk, newline=False).decode('ascii')}?="


def _utf8_chunks(value: str) -> Iterator[bytes]:
    """Cuts between characters: RFC 2047 forbids to split one over two words."""
    raw = value.encode()
    start = 0
    while start < len(raw):
        end = min(start + _ENCODED_WORD_BYTES, len(raw))
        while end < len(raw) and raw[end] & 0xC0 == 0x80:
            end -= 1
        yield raw[start:end]
        start = end
