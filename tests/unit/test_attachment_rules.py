"""What addresses, names and contents of attachments may be."""

from __future__ import annotations

import base64
import email
import email.policy
from typing import Any

import pytest

from models.errors import Refused
from models.requests import EmailOptions
from streams.domain.attachments import Content, File, check_attachments, checked_url, file_name, file_of
from streams.domain.mime import build_mail, check_email_options
from streams.domain.public_addresses import is_public
from tests.contracts.deliveries import cases, email_delivery
from tests.unit.test_mime import FROM, NOW

PNG = b"\x89PNG\r\n\x1a\n" + b"\x00" * 20
CASES = {case["id"]: case for case in cases("attachment_cases.json")}


def content_of(case: str) -> Content:
    return Content(base64.b64decode(CASES[case]["body_b64"]))


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "1.1.1.1",
        "2606:4700:4700::1111",
        "64:ff9b::8.8.8.8",
        "::ffff:8.8.8.8",
    ],
)
def test_public_addresses(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.0.1",
        "169.254.169.254",
        "100.64.0.1",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
        "192.0.2.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::127.0.0.1",
        "::ffff:127.0.0.1",
        "::ffff:a9fe:a9fe",
        "64:ff9b::7f00:1",
        "64:ff9b:1::1",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::1",
        "2001:0:7f00:1::",
        "2001:db8::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%eth0",
        "fec0::1",
        "ff02::1",
        "localhost",
        "",
    ],
)
def test_other_addresses(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://files.example.com/a.pdf?x=%20#page=2",
        "http://a.example:8080/",
        "https://bücher.example/ä.pdf",
        "https://8.8.8.8/x",
        "https://[2606:4700::1111]/x",
        "https://xn--bcher-kva.example/",
        "https://my_bucket.s3.amazonaws.com/x@y",
    ],
)
def test_addresses_of_files(url: str) -> None:
    assert checked_url("f", url).scheme in ("http", "https")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "/a.pdf",
        "//a.example/a.pdf",
        "ftp://a.example/",
        "file:///etc/passwd",
        "javascript:alert(1)",
        "data:text/html,x",
        "http://user:pass@a.example/",
        "http://@a.example/",
        "http://2130706433/",
        "http://0177.0.0.1/",
        "http://0x7f.1/",
        "http://0x7f000001/",
        "http://127.1/",
        "http://127.0.0.1./",
        "http://a.example:99999/",
        "http://a.example:0/",
        "http://a.example:x/",
        "http://127.0.0.1%00.example.com/",
        "http://127.0.0.1%2f@example.com/",
        "http://a.example\\@b.example/",
        "http://a.example/\r\nX: 1",
        "http://a.example/ b",
        f"http://{'a' * 64}.example/",
        "http://[::1%25eth0]/",
        "http://[::1/",
        "http://a..example/",
        "http:///x",
    ],
)
def test_addresses_that_are_none(url: str) -> None:
    with pytest.raises(Refused):
        checked_url("f", url)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("invoice.pdf", "invoice.pdf"),
        ("../../etc/cron.d/x", "x"),
        ("..\\..\\x.txt", "x.txt"),
        ("C:\\a\\b.pdf", "b.pdf"),
        (' a"b<c>:d|e?f*.pdf. ', "a_b_c__d_e_f_.pdf"),
        ("invoice\u202efdp.exe", "invoicefdp.exe"),
        ("Rechnung März.pdf", "Rechnung März.pdf"),
        ("A" * 400 + ".pdf", "A" * 146 + ".pdf"),
        ("A" * 255, "A" * 150),
    ],
)
def test_a_name_is_only_a_label(name: str, label: str) -> None:
    assert file_name("f", name) == label


@pytest.mark.parametrize("name", ["", "..", "a/", "/", " . ", "a\r\nb.pdf", "a\x00.pdf", "=?utf-8?q?a=0D=0Ab?=.pdf"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(Refused):
        file_name("f", name)


@pytest.mark.parametrize(
    ("name", "data", "content_type"),
    [
        ("a.pdf", b"%PDF-1.7", "application/pdf"),
        ("A.PDF", b"\n\n%PDF-1.7", "application/pdf"),
        ("a.png", PNG, "image/png"),
        ("a.jpeg", b"\xff\xd8\xff\xe0", "image/jpeg"),
        ("a.txt", b"hello", "text/plain"),
        ("a.csv", "ä;ö".encode("utf-16"), "text/csv"),
        ("a.docx", b"PK\x03\x04", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        ("a.mp4", b"\x00\x00\x00\x18ftypmp42", "video/mp4"),
        ("x", b"hello", "text/plain"),
        ("x", b"%PDF-1.7\x00", "application/pdf"),
    ],
)
def test_types_come_from_the_name_and_must_fit(name: str, data: bytes, content_type: str) -> None:
    assert file_of("f", name, Content(data)).content_type == content_type


@pytest.mark.parametrize(
    ("name", "data", "field"),
    [
        ("a.exe", b"MZ", "f.filename"),
        ("a.pdf.js", b"x", "f.filename"),
        ("a.html", b"<p>", "f.filename"),
        ("a.svg", b"<svg>", "f.filename"),
        ("a.docm", b"PK\x03\x04", "f.filename"),
        ("a.jpg", b"MZ\x00", "f"),
        ("a.jpg", PNG, "f"),
        ("a.pdf", b"MZ%PDF-", "f"),
        ("a.txt", b"a\x00b", "f"),
        ("a.txt", b"MZhello", "f"),
        ("a.zip", b"", "f"),
        ("x", b"MZ\x00\x00", "f.filename"),
        ("x", b"\x7fELF\x00", "f.filename"),
    ],
)
def test_other_types_and_contents_are_refused(name: str, data: bytes, field: str) -> None:
    with pytest.raises(Refused) as refused:
        file_of("f", name, Content(data))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("case", "label"),
    [
        ("att-pixel-flood", "big.png"),
        ("att-zip-slip", "b.zip"),
        ("att-name-traversal", "x"),
        ("att-name-win", "x.txt"),
        ("att-csv-formula", "a.csv"),
    ],
)
def test_cases_that_pass_do_so_byte_by_byte(case: str, label: str) -> None:
    """Neither decoded nor unpacked nor escaped: what came is what goes."""
    file = file_of("f", CASES[case]["filename"], content_of(case))
    assert file.name == label
    assert base64.b64decode(file.content.base64) == base64.b64decode(CASES[case]["body_b64"])


@pytest.mark.parametrize("case", ["att-exe", "att-exe-as-jpg", "att-eicar-split"])
def test_cases_that_are_refused(case: str) -> None:
    with pytest.raises(Refused):
        file_of("f", CASES[case]["filename"], content_of(case))


# -- early


@pytest.mark.parametrize(
    ("attachment", "field"),
    [
        ({"url": "https://user:pass@a.example/", "filename": "a.pdf"}, "url"),
        ({"url": "http://2130706433/", "filename": "a.pdf"}, "url"),
        ({"url": "https://a.example/", "filename": "setup.exe"}, "filename"),
        ({"url": "https://a.example/", "filename": "a\r\nBcc: x.pdf"}, "filename"),
        ({"filename": "a.pdf"}, "url"),
        ({"attachment_id": "0198c5f0-0000-7000-8000-000000000000", "filename": "a.pdf"}, "attachment_id"),
    ],
)
def test_what_can_be_known_is_said_at_once(attachment: dict[str, Any], field: str) -> None:
    fine = {"url": "https://a.example/a.pdf", "filename": "a.pdf"}
    options = EmailOptions.model_validate({"attachments": [fine, attachment]}, strict=False)
    with pytest.raises(Refused) as refused:
        check_email_options(options)
    assert refused.value.field == f"options.email.attachments.1.{field}"
    check_attachments(options.attachments[:1])


# -- in a message


def read(*files: File, **given: Any) -> email.message.EmailMessage:
    mail = build_mail(email_delivery(**given), default_from=FROM, now=NOW, files=files)
    assert not [line for line in mail.data.split(b"\r\n") if len(line) > 100]
    message = email.message_from_bytes(mail.data, policy=email.policy.default)
    assert isinstance(message, email.message.EmailMessage) and not message.defects
    return message


@pytest.mark.parametrize(
    "name",
    [
        "a.pdf",
        "a b (1).pdf",
        "Rechnung März.pdf",
        "発" * 140 + ".pdf",
        "it's 100%.pdf",
        'x"y.pdf',
        "😀.pdf",
        "a;b=c.pdf",
    ],
)
def test_files_stand_behind_the_message(name: str) -> None:
    data = b"%PDF-" + bytes(range(256)) * 3
    file = file_of("f", name, Content(data))
    message = read(file, file)
    assert message.get_content_type() == "multipart/mixed"
    body, *files = message.iter_parts()
    assert body.get_content_type() == "multipart/alternative"
    assert [part.get_filename() for part in files] == [file.name] * 2
    assert [part.get_content() for part in files] == [data] * 2
    assert {part.get_content_type() for part in files} == {"application/pdf"}
    assert [part.get_content_type() for part in message.iter_attachments()] == ["application/pdf"] * 2


def test_a_single_part_with_a_file() -> None:
    file = file_of("f", "a.txt", Content(b""))
    message = read(file, content={"subject": "Hi", "text": "hello"})
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/plain"]


def test_no_content_can_end_a_part() -> None:
    delivery = email_delivery()
    hostile = f"\r\n--=_files_{delivery.delivery_id.hex}--\r\n".encode() * 5
    file = file_of("f", "a.txt", Content(hostile))
    mail = build_mail(delivery, default_from=FROM, now=NOW, files=[file])
    assert mail.data.count(delivery.delivery_id.hex.encode()) == 8  # two boundaries declared, six lines of them
