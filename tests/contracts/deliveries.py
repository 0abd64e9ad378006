"""Deliveries and settings for provider tests."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from models.deliveries import Delivery
from models.enums import Channel
from models.requests import Attachment, Device, EmailOptions, Options, PushOptions
from models.settings import Settings

PAYLOADS = Path(__file__).parent.parent / "payloads"

#: Secrets of the tests: none of them may turn up in a result, an error or a log line.
TO = "ada.lovelace@example.com"
FROM = "Acme News <news@acme.example>"
SUBJECT = "Your secret subject"
TEXT = "Hello Ada, your code is 314159.\n"
HTML = "<p>Hello <b>Ada</b>, your code is 314159.</p>\n"
API_KEY = "SG.test-key.0123456789"
PASSWORD = "correct-horse-battery"
FCM_TOKEN = "fcm-token-of-ada:APA91bHun4MxP5egoKMwt2KZFBaFUH-1RYqx"
APNS_TOKEN = "00fc13adff785122b4ad28809a3420982341241421348097878e577c991de8f0"
SECRETS = (TO, "news@acme.example", SUBJECT, "314159", API_KEY, PASSWORD, FCM_TOKEN, APNS_TOKEN)


def settings(**given: Any) -> Settings:
    """Settings that need no environment."""
    return Settings.model_validate({"database_url": "postgresql://test/test", "email_from": FROM, **given})


def email_delivery(**given: Any) -> Delivery:
    """An ordinary e-mail; what is given replaces its fields."""
    fields: dict[str, Any] = {
        "delivery_id": uuid4(),
        "notification_id": uuid4(),
        "user_id": "user-1",
        "channel": Channel.EMAIL,
        "category": "general",
        "to": TO,
        "content": {"subject": SUBJECT, "text": TEXT, "html": HTML},
        "created_at": datetime.now(UTC),
    }
    return Delivery(**{**fields, **given})


def in_app_delivery(**given: Any) -> Delivery:
    """An ordinary in-app message."""
    content = {"title": SUBJECT, "body": TEXT, "action_url": "https://acme.example/orders/1"}
    return email_delivery(**{"channel": Channel.IN_APP, "to": None, "content": content, **given})


def push_delivery(*devices: Device, **given: Any) -> Delivery:
    """An ordinary push message; by default to one device of each platform."""
    usual = (Device(platform="fcm", token=FCM_TOKEN), Device(platform="apns", token=APNS_TOKEN))
    fields: dict[str, Any] = {"channel": Channel.PUSH, "to": None, "devices": devices or usual}
    return email_delivery(**{**fields, "content": {"title": SUBJECT, "body": TEXT}, **given})


def push_options(**given: Any) -> Options:
    """What a sender may choose for a push message."""
    return Options(push=PushOptions(**given))


def email_options(**given: Any) -> Options:
    """Options that passed no validation at all, as the builder must not rely on the API's."""
    fields: dict[str, Any] = {"from_": None, "reply_to": None, "cc": (), "headers": {}, "tags": (), "attachments": ()}
    return Options(email=EmailOptions.model_construct(**{**fields, **given}))


def with_attachment() -> Options:
    """A request for a file; only providers of e-mail send those."""
    return email_options(attachments=(Attachment.model_construct(filename="a.pdf", url="https://acme.example/a.pdf"),))


def cases(name: str) -> list[dict[str, Any]]:
    """The cases of a file of `tests/payloads`."""
    loaded: list[dict[str, Any]] = json.loads((PAYLOADS / name).read_text())["cases"]
    return loaded
