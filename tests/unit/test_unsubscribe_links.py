"""Links by which people leave: nobody can read, forge or turn them, and mails carry them."""

from __future__ import annotations

import base64
import re
import string
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import Message
from typing import Any
from uuid import uuid4

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audience import Category, Person
from models.deliveries import Delivery
from models.enums import Channel
from models.requests import NotificationRequest, parse
from models.settings import Settings
from streams.domain.mime import build_mail
from streams.domain.planning import Planned, Surroundings, plan
from streams.domain.template_variables import completed
from streams.domain.templates import Renderer, variables
from streams.domain.unsubscribe import MAX_CHARACTERS, Leaving, UnsubscribeLinks
from streams.providers.sendgrid import payload

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LINKS = UnsubscribeLinks("a key of this service", "https://comms.example.com/")
LEAVING = Leaving(channel=Channel.EMAIL, address="Ada@example.com", category="news", notification_id=uuid4())


def test_a_token_says_what_was_put_in_and_each_message_has_its_own() -> None:
    messages = [LEAVING._replace(notification_id=uuid4()) for _ in range(50)]
    assert [LINKS.read(LINKS.token(message)) for message in messages] == messages
    assert len({LINKS.token(message) for message in messages}) == 50
    # A fan-out that is repeated makes the record of the first one.
    assert LINKS.token(LEAVING) == LINKS.token(LEAVING)
    sms = Leaving(channel=Channel.SMS, address="+4915112345678", category="")
    assert LINKS.read(LINKS.token(sms)) == sms


def test_its_address_is_safe_in_a_header_and_shows_nobody() -> None:
    url = LINKS.url(LEAVING)
    token = url.removeprefix("https://comms.example.com/api/v1/unsubscribe/")
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    assert b"ada" not in raw.lower()
    assert b"news" not in raw
    assert len(url) < 160


@given(
    local=st.text("abcdefghijklmnop", min_size=1, max_size=64),
    domain=st.integers(1, 180),
    category=st.text("abcdefgh.:-_", max_size=128),
)
def test_it_is_never_too_long(local: str, domain: int, category: str) -> None:
    leaving = LEAVING._replace(address=f"{local}@{'d' * domain}.example", category=category)
    token = LINKS.token(leaving)
    assert len(token) <= MAX_CHARACTERS
    found = LINKS.read(token)
    assert found is not None
    assert found.address == leaving.address
    assert found.category in (category, "")


def test_the_longest_address_of_all_leaves_everything() -> None:
    longest = LEAVING._replace(address="a" * 64 + "@" + "b" * 189, category="c" * 128)
    found = LINKS.read(LINKS.token(longest))
    assert found == Leaving(channel=Channel.EMAIL, address=longest.address, category="")


def test_nothing_else_is_read() -> None:
    token = LINKS.token(LEAVING)
    others = [UnsubscribeLinks("another key", "https://x").token(LEAVING), "", "a", token[:-2], token + "AA", "é" * 20]
    others += [token * 10, "=" * 8, token + "==", "A" * 120]
    assert [LINKS.read(other) for other in others if other != token + "=="] == [None] * (len(others) - 1)


@pytest.mark.parametrize("address", ["ada@example.com", "ada1@example.com", "ada12@example.com"])
def test_one_link_has_one_spelling(address: str) -> None:
    # The last character of base64 may have bits to spare: 'g' and 'h' would then stand for the same bytes.
    token = LINKS.token(LEAVING._replace(address=address))
    letters = string.ascii_letters + string.digits + "-_"
    assert [letter for letter in letters if LINKS.read(token[:-1] + letter)] == [token[-1]]


@given(place=st.integers(0, 80), bit=st.integers(0, 7))
def test_one_turned_bit_makes_it_nobodys(place: int, bit: int) -> None:
    token = LINKS.token(LEAVING)
    raw = bytearray(base64.urlsafe_b64decode(token + "=" * (-len(token) % 4)))
    raw[place % len(raw)] ^= 1 << bit
    assert LINKS.read(base64.urlsafe_b64encode(raw).rstrip(b"=").decode()) is None


def test_mails_have_none_without_a_key_or_an_address_that_somebody_set() -> None:
    base = {"database_url": "postgresql://none/none"}
    url = "https://comms.example.com"
    assert UnsubscribeLinks.of(Settings(**base, secret_key="k", public_url=url)) is not None
    assert UnsubscribeLinks.of(Settings(**base, public_url=url)) is None
    assert UnsubscribeLinks.of(Settings(**base, secret_key="k")) is None, "nobody could follow a link to localhost"
    assert UnsubscribeLinks.of(Settings(**base, secret_key="k", public_url="")) is None
    assert UnsubscribeLinks.reading(Settings(**base, secret_key="k")) is not None
    assert UnsubscribeLinks.reading(Settings(**base)) is None


# What is planned


def planned(channel: str = "email", *, transactional: bool = False, **more: Any) -> Planned:
    raw = {
        "user_id": "u-1",
        "channel": channel,
        "category": "news",
        "content": {
            "subject": "S",
            "text": "Leave: {{ unsubscribe_url }}",
            "html": '<a href="{{ unsubscribe_url }}">x</a>',
        },
        **more,
    }
    around = Surroundings(
        person=Person(user_id="u-1", email="Ada@example.com", phone="+4915112345678"),
        category=Category(key="news", transactional=transactional),
        unsubscribed={},
        templates=(),
        default_locale="en",
        renderer=Renderer(),
        links=LINKS,
    )
    request = parse(NotificationRequest, orjson.dumps(raw))
    [found] = plan(request, uuid4(), around, generation=0, created_at=NOW)
    return found


def test_mail_and_text_have_their_own_link() -> None:
    mail = planned().delivery
    assert mail.unsubscribe_url is not None
    assert mail.content["text"] == f"Leave: {mail.unsubscribe_url}"
    assert f'href="{mail.unsubscribe_url}"' in mail.content["html"]
    said = LINKS.read(mail.unsubscribe_url.rpartition("/")[2])
    assert said == Leaving(
        channel=Channel.EMAIL, address="Ada@example.com", category="news", notification_id=mail.notification_id
    )
    assert parse(Delivery, mail.record_value()).unsubscribe_url == mail.unsubscribe_url
    text = planned("sms").delivery
    assert text.unsubscribe_url is None
    told = LINKS.read(text.content["text"].rpartition("/")[2])
    assert told is not None
    assert told.address == "+4915112345678"


def test_who_can_not_leave_gets_an_empty_one() -> None:
    receipt = planned(transactional=True).delivery
    assert (receipt.unsubscribe_url, receipt.content["text"]) == (None, "Leave: ")
    assert planned("in_app", content={"title": "T", "body": "<{{ unsubscribe_url }}>"}).delivery.content["body"] == "<>"


def test_the_variable_is_the_services_own() -> None:
    assert (
        planned(data={"unsubscribe_url": "https://evil.example"})
        .delivery.content["text"]
        .startswith("Leave: https://comms.example.com/")
    )
    assert completed({"unsubscribe_url": "https://mine.example"}) == {"unsubscribe_url": "https://mine.example"}
    assert variables({"text": "{{ unsubscribe_url }} {{ name }}"}, "sms") == {"name"}


# What is sent


def message(**options: Any) -> Message:
    return message_from_bytes(build_mail(planned(**options).delivery, default_from="us@example.com", now=NOW).data)


def test_a_mail_carries_both_headers_in_one_line_each() -> None:
    mail = planned().delivery
    data = build_mail(mail, default_from="us@example.com", now=NOW).data
    assert f"\r\nList-Unsubscribe: <{mail.unsubscribe_url}>\r\n".encode() in data
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in data


def test_a_receipt_carries_none() -> None:
    receipt = message(transactional=True)
    assert receipt["List-Unsubscribe"] is None
    assert receipt["List-Unsubscribe-Post"] is None


def test_a_callers_own_header_stays_alone() -> None:
    own = message(options={"email": {"headers": {"list-unsubscribe": "<mailto:leave@example.com>"}}})
    assert own.get_all("List-Unsubscribe") == ["<mailto:leave@example.com>"]
    assert own["List-Unsubscribe-Post"] is None


@pytest.mark.parametrize("transactional", [False, True])
def test_sendgrid_carries_them_too(transactional: bool) -> None:
    mail = planned(transactional=transactional).delivery
    headers = payload(mail, default_from="us@example.com")["headers"]
    assert headers.get("List-Unsubscribe") == (None if transactional else f"<{mail.unsubscribe_url}>")
    assert ("List-Unsubscribe-Post" in headers) is not transactional
