"""Where the cases of `email_header_injection.json` put their values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models.deliveries import Delivery
from models.requests import Attachment
from tests.contracts.deliveries import email_delivery, email_options

_CONTENT = {"subject": "Hello", "text": "plain body\n", "html": "<p>html body</p>"}

_CONTENT_OF: dict[str, Callable[[str], dict[str, str]]] = {
    "subject": lambda value: {"subject": value},
    "template_value_in_subject": lambda value: {"subject": f"Dear {value}, your order"},
    "body": lambda value: {"text": value, "html": value},
}

#: The options that carry a value, and the headers they add to the usual ones.
_OPTIONS_OF: dict[str, Callable[[str], tuple[dict[str, Any], set[str]]]] = {
    "from": lambda value: ({"from_": value}, set()),
    "from_name": lambda value: ({"from_": f'"{_escaped(value)}" <ada@example.com>'}, set()),
    "from_name unquoted": lambda value: ({"from_": f"{value} <ada@example.com>"}, set()),
    "reply_to": lambda value: ({"reply_to": value}, {"reply-to"}),
    "reply_to_name": lambda value: ({"reply_to": f'"{_escaped(value)}" <ada@example.com>'}, {"reply-to"}),
    "reply_to_name unquoted": lambda value: ({"reply_to": f"{value} <ada@example.com>"}, {"reply-to"}),
    "cc": lambda value: ({"cc": (value,)}, {"cc"}),
    "custom_header_value": lambda value: ({"headers": {"X-Custom": value}}, {"x-custom"}),
    "custom_header_name": lambda value: ({"headers": {value: "value"}}, {value.lower()}),
    "message_id": lambda value: ({"headers": {"Message-ID": value}}, set()),
    "list_unsubscribe_url": lambda value: ({"headers": {"List-Unsubscribe": f"<{value}>"}}, {"list-unsubscribe"}),
    "attachment_filename": lambda value: ({"attachments": (_attachment(value),)}, set()),
}


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"')


def _attachment(filename: str) -> Attachment:
    return Attachment.model_construct(filename=filename, url="https://acme.example/file")


def deliveries(field: str, value: str) -> list[tuple[Delivery, set[str]]]:
    """The deliveries that carry the value where the case says, and the headers named beside the usual ones."""
    if field == "to":
        return [(email_delivery(to=value, content=_CONTENT), set())]
    if field in _CONTENT_OF:
        return [(email_delivery(content={**_CONTENT, **_CONTENT_OF[field](value)}), set())]
    found = []
    for place in (place for place in _OPTIONS_OF if place.split(" ")[0] == field):
        options, headers = _OPTIONS_OF[place](value)
        found.append((email_delivery(content=_CONTENT, options=email_options(**options)), headers))
    assert found, f"no place for {field}"
    return found
