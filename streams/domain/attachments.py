"""Files of an e-mail: what their addresses, names and contents may be, and how they stand in a message. Pure.

A file is passed on as it came: never unpacked, decoded or looked into beyond its first bytes. Its type is that of its
name, out of a list, and the content has to fit; what the server says of it isn't asked.
"""

from __future__ import annotations

import binascii
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any
from urllib.parse import quote

from yarl import URL

from models.errors import Refused
from models.requests import Attachment
from streams.domain.mail_headers import safe_text

FIELD = "options.email.attachments"
#: Of names as they are shown; longer ones are cut before their ending.
_LONGEST_NAME = 150
_HEAD_BYTES = 4_096
_BASE64_LINE = 76
_PARAMETER_CHARACTERS = 60

_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\\]")
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"\d+|0x[0-9a-f]*")
#: Which would show `exe.pdf` where the name is `fdp.exe`, or nothing at all.
_INVISIBLE = re.compile("[\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")
_AWKWARD = re.compile(r'[<>:"|?*]')
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$&+,.;=@_()\[\]{}~^-]{1,150}")

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_OLE = (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1",)
#: How files of a kind begin. "text" has no beginning of its own: see `Content.is_text`.
_BEGINNINGS: dict[str, tuple[bytes, ...]] = {
    "pdf": (b"%PDF-",),
    "png": (b"\x89PNG\r\n\x1a\n",),
    "jpeg": (b"\xff\xd8\xff",),
    "gif": (b"GIF87a", b"GIF89a"),
    "bmp": (b"BM",),
    "tiff": (b"II*\x00", b"MM\x00*"),
    "riff": (b"RIFF",),
    "zip": _ZIP,
    "gzip": (b"\x1f\x8b",),
    "ole": _OLE,
    "rtf": (b"{\\rtf",),
    "ogg": (b"OggS",),
    "mp3": (b"ID3", b"\xff\xfb", b"\xff\xf3", b"\xff\xf2"),
}
_OFFICE = "application/vnd.openxmlformats-officedocument"
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"
#: By the name's ending: the type that mail programs are told, and how such a file begins. Nothing that runs, no macros,
#: no page or picture with scripts in it (html, svg).
_TYPES: dict[str, tuple[str, str]] = {
    "pdf": ("application/pdf", "pdf"),
    "png": ("image/png", "png"),
    "jpg": ("image/jpeg", "jpeg"),
    "jpeg": ("image/jpeg", "jpeg"),
    "gif": ("image/gif", "gif"),
    "webp": ("image/webp", "riff"),
    "bmp": ("image/bmp", "bmp"),
    "tif": ("image/tiff", "tiff"),
    "tiff": ("image/tiff", "tiff"),
    "heic": ("image/heic", "mp4"),
    "txt": ("text/plain", "text"),
    "log": ("text/plain", "text"),
    "md": ("text/markdown", "text"),
    "csv": ("text/csv", "text"),
    "tsv": ("text/tab-separated-values", "text"),
    "json": ("application/json", "text"),
    "xml": ("application/xml", "text"),
    "ics": ("text/calendar", "text"),
    "vcf": ("text/vcard", "text"),
    "rtf": ("application/rtf", "rtf"),
    "doc": ("application/msword", "ole"),
    "xls": ("application/vnd.ms-excel", "ole"),
    "ppt": ("application/vnd.ms-powerpoint", "ole"),
    "docx": (f"{_OFFICE}.wordprocessingml.document", "zip"),
    "xlsx": (f"{_OFFICE}.spreadsheetml.sheet", "zip"),
    "pptx": (f"{_OFFICE}.presentationml.presentation", "zip"),
    "odt": (f"{_OPEN_DOCUMENT}.text", "zip"),
    "ods": (f"{_OPEN_DOCUMENT}.spreadsheet", "zip"),
    "odp": (f"{_OPEN_DOCUMENT}.presentation", "zip"),
    "epub": ("application/epub+zip", "zip"),
    "pkpass": ("application/vnd.apple.pkpass", "zip"),
    "zip": ("application/zip", "zip"),
    "gz": ("application/gzip", "gzip"),
    "mp3": ("audio/mpeg", "mp3"),
    "wav": ("audio/wav", "riff"),
    "ogg": ("audio/ogg", "ogg"),
    "m4a": ("audio/mp4", "mp4"),
    "mp4": ("video/mp4", "mp4"),
    "mov": ("video/quicktime", "mp4"),
}


class Content:
    """What a file holds, already in base64: the bytes themselves aren't needed again."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.head = data[:_HEAD_BYTES]
        #: No NUL, or UTF-16 with its mark.
        self.is_text = b"\x00" not in data or data.startswith((b"\xff\xfe", b"\xfe\xff"))
        self.base64 = binascii.b2a_base64(data, newline=False).decode("ascii")

    @cached_property
    def lines(self) -> str:
        """The base64 as it stands in a message; made once, however many messages have the file."""
        text, width = self.base64, _BASE64_LINE
        return "".join(f"{text[start : start + width]}\r\n" for start in range(0, len(text), width))


@dataclass(frozen=True, slots=True)
class File:
    """One attachment of one message."""

    name: str
    content_type: str
    content: Content

    def part(self) -> str:
        """The MIME part, headers and all."""
        return (
            f"Content-Type: {self.content_type}\r\n"
            "Content-Transfer-Encoding: base64\r\n"
            f"Content-Disposition: attachment;\r\n {_parameter('filename', self.name)}\r\n\r\n{self.content.lines}"
        )


def _parameter(key: str, value: str) -> str:
    """A parameter of a MIME header by RFC 2231, in as many pieces as its lines need."""
    if _PLAIN_NAME.fullmatch(value):
        return f'{key}="{value}"'
    pieces = [""]
    for character in value:
        encoded = quote(character, safe="")
        if len(pieces[-1]) + len(encoded) > _PARAMETER_CHARACTERS:
            pieces.append("")
        pieces[-1] += encoded
    if len(pieces) == 1:
        return f"{key}*=utf-8''{pieces[0]}"
    pieces[0] = f"utf-8''{pieces[0]}"
    return ";\r\n ".join(f"{key}*{index}*={piece}" for index, piece in enumerate(pieces))


def check_attachments(attachments: Sequence[Attachment]) -> None:
    """All that can be said before a file is fetched.

    Raises:
        Refused: naming the attachment, as in `options.email.attachments.0.url`.
    """
    for index, attachment in enumerate(attachments):
        field = f"{FIELD}.{index}"
        if attachment.attachment_id is not None:
            raise Refused(f"{field}.attachment_id", "is not offered by this version; send a url")
        if attachment.url is None:
            raise Refused(f"{field}.url", "is needed")
        checked_url(f"{field}.url", attachment.url)
        ending = _ending(file_name(f"{field}.filename", attachment.filename))
        if ending and ending not in _TYPES:
            raise Refused(f"{field}.filename", "files of this type are not sent")


def checked_url(field: str, text: str) -> URL:
    """An http(s) address with a host that can only be read in one way, without credentials.

    Raises:
        Refused: for everything else.
    """
    if _CONTROL_OR_SPACE.search(text):
        raise Refused(field, "must not contain spaces, control characters or backslashes")
    try:
        url = URL(text).with_fragment(None)
        host, port = url.raw_host, url.port
    except (ValueError, UnicodeError):
        raise Refused(field, "is not an address that can be read") from None
    if url.scheme not in ("http", "https") or not host or not port:
        raise Refused(field, "must be an http or https address")
    if "@" in re.split("[/?#]", text.partition("//")[2], maxsplit=1)[0]:
        raise Refused(field, "must not carry credentials")
    if not _is_plain_host(host):
        raise Refused(field, "its host is not a name or an address in its usual form")
    return url


def _is_plain_host(host: str) -> bool:
    """A DNS name or a canonical address: `127.1`, `0x7f.1`, `2130706433` and `[::1%25eth0]` are neither."""
    if ":" in host:
        return "%" not in host and _address(host) is not None
    labels = host.lower().removesuffix(".").split(".")
    if _NUMBER.fullmatch(labels[-1]):
        return _address(host) is not None
    return len(host) <= 253 and all(_HOST_LABEL.fullmatch(label) for label in labels)


def _address(host: str) -> Any:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def file_name(field: str, text: str) -> str:
    """The name as a label: without folders, without what could end a header, of a length that programs show.

    Raises:
        Refused: when nothing is left, or for line breaks and control characters.
    """
    name = _INVISIBLE.sub("", safe_text(field, text))
    name = _AWKWARD.sub("_", re.split(r"[/\\]", name)[-1]).strip(" .")
    if not name:
        raise Refused(field, "must be a file's name")
    stem, dot, ending = name.rpartition(".")
    if len(name) > _LONGEST_NAME and dot and len(ending) < 20:
        return f"{stem[: _LONGEST_NAME - len(ending) - 1]}.{ending}"
    return name[:_LONGEST_NAME]


def file_of(field: str, text: str, content: Content) -> File:
    """The file under its name, if its content is what the name says.

    Raises:
        Refused: for types that aren't on the list, and for content of another type.
    """
    name = file_name(f"{field}.filename", text)
    ending = _ending(name)
    if not ending:
        return File(name, _guessed(field, content), content)
    if ending not in _TYPES:
        raise Refused(f"{field}.filename", "files of this type are not sent")
    content_type, kind = _TYPES[ending]
    if not _fits(kind, content):
        raise Refused(field, f"the file's content is not that of a .{ending}")
    return File(name, content_type, content)


def _ending(name: str) -> str:
    return name.rpartition(".")[2].lower() if "." in name else ""


def _guessed(field: str, content: Content) -> str:
    """For a name without an ending: what the content shows, as far as it is on the list."""
    for content_type, kind in _TYPES.values():
        if kind not in ("text", "zip", "ole", "riff", "mp3", "bmp") and _fits(kind, content):
            return content_type
    if content.is_text:
        return "text/plain"
    raise Refused(f"{field}.filename", "needs an ending that says what the file is")


def _fits(kind: str, content: Content) -> bool:
    head = content.head
    if kind == "text":
        return content.is_text and not head.startswith(b"MZ")
    if kind == "mp4":
        return head[4:8] == b"ftyp"
    if kind == "pdf":
        # Readers look for it in the first kilobyte.
        return b"%PDF-" in head[:1024] and not head.startswith(b"MZ")
    return head.startswith(_BEGINNINGS[kind])
