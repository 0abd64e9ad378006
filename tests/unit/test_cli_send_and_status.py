"""`comms send` and `comms status`: what is sent, what is shown, and the exit codes."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli import CommandError
from cli.client import Api
from cli.commands.send import build_request, read_data
from cli.commands.status import check_id, follow_up, has_ended, show, went_well
from cli.render import Output, as_json, safe
from models.enums import Channel, Status
from models.requests import NotificationRequest, parse
from models.status import is_final

ID = "0198c0de-0000-7000-8000-000000000001"


def notification(status: str, *events: str) -> dict[str, Any]:
    return {
        "notification_id": ID,
        "user_id": "ada",
        "status": status,
        "category": "general",
        "priority": "normal",
        "created_at": "2026-01-01T12:00:00.000Z",
        "updated_at": "2026-01-01T12:00:01.000Z",
        "deliveries": [
            {
                "delivery_id": ID,
                "channel": "email",
                "status": status,
                "provider": "smtp",
                "attempts": 1,
                "updated_at": "2026-01-01T12:00:01.000Z",
            }
        ],
        "timeline": [
            {"at": f"2026-01-01T12:00:0{place}.000Z", "channel": "email", "event": event}
            for place, event in enumerate(events)
        ],
        "metadata": {},
    }


def request(**given: Any) -> dict[str, Any]:
    defaults: dict[str, Any] = {
        "to": None,
        "user": None,
        "channels": [],
        "template": None,
        "content": {},
        "data": {},
        "more": {},
        "idempotency_key": "key",
    }
    return build_request(**(defaults | given))


def test_an_address_alone_makes_a_whole_request() -> None:
    body = request(to="ada@example.com", content={"subject": "Hi", "text": "Hello"})
    parsed = parse(NotificationRequest, json.dumps(body).encode())
    assert parsed.wanted_channels == (Channel.EMAIL,)
    assert parsed.recipient.email == "ada@example.com"
    assert parsed.idempotency_key == "key"


def test_the_user_made_from_an_address_is_always_the_same_and_does_not_show_it() -> None:
    first = request(to="Ada@example.com", content={"text": "a"})["user_id"]
    assert first == request(to="ada@example.com", content={"text": "b"})["user_id"]
    assert "ada" not in first.lower().removeprefix("address-")
    assert first != request(to="eve@example.com", content={"text": "a"})["user_id"]


def test_a_user_alone_leaves_the_channels_to_the_category() -> None:
    body = request(user="ada", template="welcome", data={"name": "Ada"}, more={"priority": "high", "send_at": None})
    assert body == {
        "user_id": "ada",
        "template_id": "welcome",
        "data": {"name": "Ada"},
        "priority": "high",
        "idempotency_key": "key",
    }


def test_a_phone_number_goes_by_sms_unless_a_channel_is_named() -> None:
    assert request(to="+4915112345678", content={"text": "a"})["channels"] == ["sms"]
    named = request(to="ada@example.com", channels=[Channel.EMAIL, Channel.IN_APP], template="t")
    assert named["channels"] == ["email", "in_app"]
    assert named["recipient"] == {"email": "ada@example.com"}


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"template": "t"}, "whom is it for"),
        ({"user": "ada"}, "give either --template"),
        ({"user": "ada", "template": "t", "content": {"text": "a"}}, "give either --template"),
    ],
)
def test_half_a_request_is_refused(given: Mapping[str, Any], text: str) -> None:
    with pytest.raises(CommandError, match=text):
        request(**given)


def test_data_comes_from_an_option_or_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data.json"
    file.write_text('{"name": "Ada"}')
    assert read_data(None, None) == {}
    assert read_data('{"a": 1}', None) == {"a": 1}
    assert read_data(None, str(file)) == {"name": "Ada"}


@pytest.mark.parametrize(
    ("text", "file", "reason"),
    [
        ("{", None, "--data is not valid JSON"),
        ("[1]", None, "--data must be a JSON object"),
        ("{}", "x", "not both"),
        (None, "/does/not/exist", "--data-file can't be read: No such file"),
    ],
)
def test_bad_data_is_named(text: str | None, file: str | None, reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        read_data(text, file)


class Answers:
    """An API that gives one answer after the other, and the last one for ever."""

    def __init__(self, *answers: dict[str, Any] | int) -> None:
        self._left: Iterator[dict[str, Any] | int] = iter(answers)
        self._last: dict[str, Any] | int = answers[-1]

    def __call__(self, _: httpx.Request) -> httpx.Response:
        answer = next(self._left, self._last)
        return httpx.Response(answer, json={}) if isinstance(answer, int) else httpx.Response(200, json=answer)


class Clock:
    """Time that passes by sleeping."""

    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def followed(
    *answers: dict[str, Any] | int, json: bool = False, timeout: float = 0
) -> tuple[dict[str, Any], list[str]]:
    file, clock = io.StringIO(), Clock()
    with Api("http://api.test", "t", transport=httpx.MockTransport(Answers(*answers))) as api:
        final = follow_up(api, ID, Output(file), json=json, timeout_seconds=timeout, sleep=clock.sleep, clock=clock)
    return final, file.getvalue().splitlines()


def test_following_shows_each_step_once_and_ends_with_the_deliveries() -> None:
    final, lines = followed(
        notification("accepted", "accepted"),
        notification("accepted", "accepted"),
        notification("queued", "accepted", "queued"),
        notification("sent", "accepted", "queued", "sent"),
    )
    assert went_well(final)
    assert [line.split()[-1] for line in lines[:3]] == ["accepted", "queued", "sent"]
    assert lines[-1].split() == ["email", "sent", "1", "smtp"]


def test_following_as_json_is_one_line_for_each_change() -> None:
    _, lines = followed(notification("queued"), notification("queued"), notification("failed"), json=True)
    assert [json.loads(line)["status"] for line in lines] == ["queued", "failed"]


def test_a_failed_one_did_not_go_well() -> None:
    final, _ = followed(notification("failed", "failed"))
    assert not went_well(final)


def test_following_bears_with_an_api_that_restarts_but_not_for_ever() -> None:
    final, _ = followed(notification("queued"), 503, 503, notification("sent"))
    assert final["status"] == "sent"
    with pytest.raises(CommandError, match="can't answer now"):
        followed(503)


def test_following_gives_up_when_it_was_told_to() -> None:
    with pytest.raises(CommandError, match="has not ended after 5 s: queued"):
        followed(notification("queued"), timeout=5)


@pytest.mark.parametrize("status", Status)
def test_the_commands_know_the_ends_of_the_service(status: Status) -> None:
    assert has_ended(status) == is_final(status)


def test_a_status_is_shown_for_people_and_for_programs() -> None:
    people, programs = io.StringIO(), io.StringIO()
    show(notification("sent", "accepted", "sent"), Output(people), json=False)
    show(notification("sent"), Output(programs), json=True)
    assert f"notification id  {ID}\n" in people.getvalue()
    assert "2026-01-01T12:00:01.000Z  email   sent\n" in people.getvalue()
    assert json.loads(programs.getvalue()) == notification("sent")


def test_what_is_stored_can_not_steer_a_terminal() -> None:
    assert safe("a\x1b[2Jb\r\n\u202e") == "a\\x1b[2Jb\\r\\n\\u202e"
    assert safe("grüße 👋") == "grüße 👋"
    assert json.loads(as_json({"a": "\x1b"})) == {"a": "\x1b"}


@pytest.mark.parametrize(("text", "fine"), [(ID, True), ("xx", False), ("../users", False), ("", False)])
def test_only_a_uuid_can_be_asked_for(text: str, fine: bool) -> None:
    if fine:
        check_id(text)
        return
    with pytest.raises(CommandError, match="is a UUID"):
        check_id(text)
