"""The demonstration: what it asks for, and what it tells."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from api.schemas import NewTemplateBody
from cli import CommandError
from cli.client import Api
from cli.commands.demo import TEMPLATE, Tour, ensure_template, find_mail, request_for
from models.requests import NotificationRequest, parse
from streams.domain.templates import Renderer

ID = "0198c0de-0000-7000-8000-000000000001"


def mail(folder: Path, name: str, notification_id: str) -> Path:
    file = folder / name
    file.write_bytes(
        f"Subject: =?utf-8?q?Gr=C3=BC=C3=9Fe?=\r\nX-Notification-ID: {notification_id}\r\n\r\nbody\r\n".encode()
    )
    return file


def test_the_template_and_the_request_are_what_the_service_takes() -> None:
    template = parse(NewTemplateBody, json.dumps(TEMPLATE).encode())
    request = parse(NotificationRequest, json.dumps(request_for("by hand", ID)).encode())
    rendered = {
        channel: Renderer().render(channel, parts, request.data) for channel, parts in template.channels.parts().items()
    }
    assert set(rendered) == set(request.wanted_channels)
    assert rendered[request.wanted_channels[0]]["subject"] == "Welcome, Ada!"


@pytest.mark.parametrize(("code", "fails"), [("already_exists", False), ("forbidden", True)])
def test_a_template_that_is_there_stays(code: str, fails: bool) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(409, json={"code": code, "title": "no"}))
    api = Api("http://api.test", "t", transport=transport)
    if fails:
        with pytest.raises(CommandError):
            ensure_template(api)
    else:
        ensure_template(api)


def test_mail_is_found_by_its_notification(tmp_path: Path) -> None:
    mail(tmp_path, "1.eml", "0198c0de-0000-7000-8000-00000000ffff")
    file = mail(tmp_path, "2.eml", ID)
    assert find_mail(tmp_path, ID.upper()) == (file, "Grüße")
    assert find_mail(tmp_path, "another") is None
    assert find_mail(tmp_path / "nowhere", ID) is None


class Service:
    """An API where a notification is unknown, then queued, then sent."""

    def __init__(self) -> None:
        self.asked = 0
        self.id = ""

    def __call__(self, request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            self.id = json.loads(request.content)["id"]
            return httpx.Response(202, json={"notification_id": self.id, "status": "accepted"})
        if request.url.path == "/api/v1/inbox":
            return httpx.Response(200, json={"items": [{"notification_id": self.id, "title": "Welcome\x1b!"}]})
        self.asked += 1
        if self.asked == 1:
            return httpx.Response(404, json={"code": "not_found"})
        return httpx.Response(200, json=self._notification("sent" if self.asked > 2 else "queued"))

    def _notification(self, status: str) -> dict[str, Any]:
        events = ["queued", "sent"] if status == "sent" else ["queued"]
        return {
            "status": status,
            "deliveries": [{"channel": channel, "status": status} for channel in ("email", "in_app")],
            "timeline": [{"at": "2030-01-01T00:00:00Z", "channel": "email", "event": event} for event in events],
        }


def test_each_step_is_told_once(tmp_path: Path) -> None:
    service = Service()
    api = Api("http://api.test", "t", transport=httpx.MockTransport(service))
    lines: list[str] = []

    class MailComes(list[str]):
        """Puts the mail into the folder when the notification has been accepted."""

        def __call__(self, line: str) -> None:
            lines.append(line)
            if "202" in line:
                mail(tmp_path, "1.eml", service.id)

    Tour(api, api, tmp_path, MailComes()).over_http()

    told = [line.split(" s  ")[1] for line in lines]
    assert told == [
        f"http    202 accepted, its id is {service.id}",
        "email   queued",
        "email   sent",
        f"mail    caught: “Grüße” in {tmp_path / '1.eml'}",
        "inbox   of ada: “Welcome\\x1b!”",
    ]
