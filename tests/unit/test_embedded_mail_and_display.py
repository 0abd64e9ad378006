"""Caught mails as files, and what `comms up` shows."""

from __future__ import annotations

import io
from pathlib import Path

from aiosmtpd.smtp import Envelope
from rich.console import Console

from cli.embedded.display import Display
from cli.embedded.mail import MailFolder


def _envelope(content: bytes, sender: str | None = "a@example.com") -> Envelope:
    envelope = Envelope()
    envelope.mail_from = sender
    envelope.rcpt_tos = ["b@example.com", "c@example.com"]
    envelope.original_content = content
    return envelope


def test_a_mail_is_one_file_with_its_envelope_before_its_own_bytes(tmp_path: Path) -> None:
    content = b"Subject: x\r\n\r\n\xff\x00 odd bytes"
    file = MailFolder(tmp_path).add(_envelope(content))
    assert (
        file.read_bytes()
        == b"X-Envelope-From: a@example.com\r\nX-Envelope-To: b@example.com, c@example.com\r\n" + content
    )
    assert list(tmp_path.iterdir()) == [file]


def test_names_are_in_the_order_of_arrival_and_never_the_same(tmp_path: Path) -> None:
    folder = MailFolder(tmp_path)
    files = [folder.add(_envelope(b"")) for _ in range(9)]
    assert sorted(files) == files
    assert len(set(files)) == 9


def test_an_empty_sender_is_kept_as_such(tmp_path: Path) -> None:
    file = MailFolder(tmp_path).add(_envelope(b"", sender=""))
    assert file.read_bytes().startswith(b"X-Envelope-From: <>\r\n")


def _display(folder: Path, *, terminal: bool) -> tuple[Display, io.StringIO]:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=200, highlight=False)
    return Display(folder / "up.log", console), output


def test_without_a_terminal_each_step_is_a_plain_line(tmp_path: Path) -> None:
    display, output = _display(tmp_path, terminal=False)
    with display.live():
        display.begin("kafka")
        display.update("kafka", "downloaded 1 of 2 jars")
        display.done("kafka")
    assert output.getvalue() == "kafka: starting\nkafka: ready (0.0 s)\n"


def test_on_a_terminal_the_line_changes_in_place(tmp_path: Path) -> None:
    display, output = _display(tmp_path, terminal=True)
    with display.live():
        display.begin("kafka")
        display.update("kafka", "downloaded 1 of 2 jars")
        display.done("kafka")
    assert "✓" in output.getvalue()
    assert "ready" in output.getvalue()


def test_what_is_said_is_kept_in_the_log(tmp_path: Path) -> None:
    display, output = _display(tmp_path, terminal=False)
    display.say("kafka was ended by signal 9: started again now [odd]")
    assert output.getvalue() == "kafka was ended by signal 9: started again now [odd]\n"
    assert (tmp_path / "up.log").read_text().endswith("Z kafka was ended by signal 9: started again now [odd]\n")


def test_a_table_lines_up(tmp_path: Path) -> None:
    display, output = _display(tmp_path, terminal=False)
    display.lines([("API", "http://a"), ("a token", "t")])
    assert output.getvalue() == "API      http://a\na token  t\n"
