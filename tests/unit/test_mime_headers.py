"""What may stand in a header, and that it is read as it was written."""

from __future__ import annotations

import base64
import email
import email.header
import email.policy
import email.utils
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.errors import Refused
from streams.domain.mail_headers import (
    Mailbox,
    check_header_name,
    custom_headers,
    encoded_text,
    folded,
    mailbox,
    mailbox_header,
    safe_text,
    text_header,
)

BREAKS = [
    "\r",
    "\n",
    "\r\n",
    "\0",
    "\x0b",
    "\x0c",
    "\x1c",
    "\x1d",
    "\x1e",
    "\x7f",
    "\x85",
    "\u2028",
    "\u2029",
    "\ud800",
]


def b_word(raw: bytes, charset: str = "utf-8") -> str:
    return f"=?{charset}?b?{base64.b64encode(raw).decode()}?="


def read(line: str) -> str:
    """The value as a mail program shows it; the second header proves that the first one ended where it should."""
    message = email.message_from_string(f"{line}\r\nX-Next: 1\r\n\r\nbody")
    assert (len(message.keys()), message["X-Next"], message.get_payload()) == (2, "1", "body")
    value = message.values()[0].replace("\r\n", "")  # unfolded as RFC 5322 section 2.2.3 says
    return str(email.header.make_header(email.header.decode_header(value)))


@pytest.mark.parametrize("broken", BREAKS)
def test_no_line_ends_inside_a_header(broken: str) -> None:
    with pytest.raises(Refused, match="line breaks"):
        safe_text("f", f"Hello{broken}Bcc: victim@example.net")


@pytest.mark.parametrize(
    "value",
    [
        "=?utf-8?q?Hello=0D=0ABcc:_victim@example.net?=",
        "=?UTF-8?Q?Hello=0aBcc:_x?=",
        b_word(b"Hello\r\nBcc: victim@example.net"),
        f"Dear {b_word(b'a' + bytes([10]))} you",
        b_word(b"a\0b"),
        b_word("a\u2028b".encode()),
        b_word("a\x85b".encode()),
        b_word(b"a\nb", "no-such-charset"),
        b_word(b"a+AA0ACg-b", "utf-7"),
        b_word("a\nb".encode("utf-16"), "utf-16"),
        b_word(b"a\nb", "utf-8*en"),
        b_word(b_word(b"a\nb").encode()),
        "=?utf-8?q?=3D=3Futf-8=3Fq=3Fa=3D0Ab=3F=3D?=",
        b_word(b"a\\x0ab", "unicode_escape"),
        "=??b?CgoK?=",
    ],
)
def test_nor_in_an_encoded_word(value: str) -> None:
    with pytest.raises(Refused):
        safe_text("f", value)


def test_undecodable_and_endlessly_nested_words_are_refused() -> None:
    nested = "end"
    for _ in range(8):
        nested = b_word(nested.encode())
    for value in (nested, "=?utf-8?b?abcde?=", b_word(b"\xff\xfe\xfd")):
        with pytest.raises(Refused):
            safe_text("f", value)


@pytest.mark.parametrize("value", ["50 =? of 100", "=?utf-8?q?Hello?=", "a?=b", b_word("grün".encode()), "x =?y?z?="])
def test_what_only_looks_like_an_encoded_word_is_read_as_it_was_written(value: str) -> None:
    assert read(text_header("Subject", safe_text("f", value))) == value


def test_white_space_around_and_tabs() -> None:
    assert safe_text("f", "\n Hello\tAda \r\n") == "Hello Ada"


def test_length_is_bounded() -> None:
    assert len(safe_text("f", "x" * 2000)) == 2000
    with pytest.raises(Refused, match="2000 characters"):
        safe_text("f", "x" * 2001)


_TEXT = st.text(max_size=400).map(lambda text: re.sub(r"\s", " ", text).strip())


@given(_TEXT)
def test_any_text_is_refused_or_read_as_it_was_written(text: str) -> None:
    try:
        value = safe_text("f", text)
    except Refused as refused:
        assert text not in str(refused) or len(text) < 4
        return
    line = text_header("Subject", value)
    assert line.isascii()
    assert all(0 < len(part) <= 998 and part.strip() for part in line.split("\r\n"))
    assert all(part.startswith(" ") for part in line.split("\r\n")[1:])
    assert read(line) == value
    assert encoded_text(value).isascii()


@pytest.mark.parametrize(
    "value", ["A" * 2000, "ä" * 1500, "word " * 300 + "end", "a  b" * 400, "🎉" * 300, "x" * 899 + " " + "y" * 899]
)
def test_long_values_are_folded_below_the_limit(value: str) -> None:
    line = text_header("X-" + "N" * 74, safe_text("f", value))
    assert max(len(part) for part in line.split("\r\n")) <= 998
    assert read(line) == value


def test_encoded_lines_are_within_rfc_2047() -> None:
    for line in text_header("Subject", "ä€🎉" * 100).split("\r\n"):
        assert len(line) <= 76
        word = re.search(r"=\?utf-8\?b\?(.*)\?=", line)
        assert word is not None
        base64.b64decode(word[1]).decode()  # whole characters in each word


def test_short_lines_stay_whole() -> None:
    assert folded("Subject: hello") == "Subject: hello"
    assert folded("Subject: " + "word " * 20 + "end").startswith("Subject: word")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("ada@example.com", Mailbox("ada@example.com")),
        ("<ada@example.com>", Mailbox("ada@example.com")),
        ("Ada <ada@Example.COM>", Mailbox("ada@example.com", "Ada")),
        ("  Ada King  <ada@example.com> ", Mailbox("ada@example.com", "Ada King")),
        ('"King, Ada \\"Countess\\"" <ada@example.com>', Mailbox("ada@example.com", 'King, Ada "Countess"')),
        ("Bücher GmbH <info@bücher.example>", Mailbox("info@xn--bcher-kva.example", "Bücher GmbH")),
        ("O'Brien & Co. <o'brien@example.com>", Mailbox("o'brien@example.com", "O'Brien & Co.")),
    ],
)
def test_one_mailbox_with_or_without_a_name(value: str, expected: Mailbox) -> None:
    box = mailbox("f", value)
    assert box == expected
    parsed = email.message_from_string(mailbox_header("From", box) + "\r\n\r\n", policy=email.policy.default)
    (address,) = parsed["From"].addresses
    assert (address.display_name, address.addr_spec) == (expected.name, expected.address)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Ada",
        "Ada <>",
        "a@b.example, c@d.example",
        "Ada <a@b.example>, Eve <c@d.example>",
        "friends: a@b.example, c@d.example;",
        "undisclosed-recipients:;",
        "@evil.example:ada@example.com",
        "Ada <@evil.example:ada@example.com>",
        "ada@example.com (comment)",
        "Ada (comment) <ada@example.com>",
        "King, Ada <ada@example.com>",
        'Ada" <ada@example.com>',
        '"Ada" Eve" <ada@example.com>',
        "ada@example.com> <eve@example.com",
        "<<ada@example.com>>",
        "Ada <ada@example.com> Eve",
        "ada@example.com\r\nRCPT TO:<eve@example.com>",
        "Ada\n<ada@example.com>",
        "ada@[127.0.0.1]",
        '"a b"@example.com',
        "ada@example.com\0@evil.example",
        "ada@exam ple.com",
        "аda@example.com",
        "=?utf-8?q?Ada=0A?= <ada@example.com>",
    ],
)
def test_everything_else_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(Refused) as refused:
        mailbox("recipient.email", value)
    assert refused.value.field == "recipient.email"
    assert not value or value not in str(refused.value)


@given(st.text(max_size=120).map(lambda text: re.sub(r"\s", " ", text).strip()))
def test_any_name_is_refused_or_read_as_it_was_written(name: str) -> None:
    try:
        safe_text("f", name)
    except Refused:
        return
    line = mailbox_header("From", Mailbox("ada@example.com", name))
    assert all(len(part) <= 998 for part in line.split("\r\n"))
    ((shown, address),) = email.utils.getaddresses([line.removeprefix("From: ").replace("\r\n", "")])
    assert address == "ada@example.com"
    assert str(email.header.make_header(email.header.decode_header(shown))) == name


@pytest.mark.parametrize(
    "name",
    [
        *("Bcc", "bcc", "From", "To", "Cc", "Subject", "Date", "Message-ID", "Reply-To", "Sender", "Return-Path"),
        *("Received", "MIME-Version", "Content-Type", "content-transfer-encoding", "Resent-To", "DKIM-Signature"),
        *("ARC-Seal", "X-SMTPAPI", "X-MC-BccAddress", "X-Notification-ID"),
    ],
)
def test_headers_of_the_envelope_are_not_the_caller_s(name: str) -> None:
    with pytest.raises(Refused, match="envelope"):
        check_header_name("f", name)


@pytest.mark.parametrize("name", ["", "X Y", "X:Y", "X\r\nBcc", "Ünicode", "1X", "X" * 77, "X\u2028Y", "-", "X%0d%0a"])
def test_a_header_s_name_is_a_token(name: str) -> None:
    with pytest.raises(Refused, match="letters"):
        check_header_name("f", name)


def test_ordinary_headers_pass() -> None:
    given = {"X-Campaign": "Frühling", "List-Unsubscribe": "<https://a.example/u>", "References": "<1@a.example>"}
    assert dict(custom_headers("f", given)) == given


@pytest.mark.parametrize(
    ("name", "value"), [("List-Unsubscribe", "<https://bücher.example>"), ("References", "x" * 901)]
)
def test_headers_with_a_grammar_take_plain_values_only(name: str, value: str) -> None:
    with pytest.raises(Refused, match="ASCII"):
        custom_headers("f", {name: value})
