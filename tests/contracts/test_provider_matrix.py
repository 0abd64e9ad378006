"""The feature matrix of docs/providers/README.md is what the code does."""

from __future__ import annotations

import importlib
import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from bench.adapters import VENDORS, delivery_for, provider_at
from bench.provider_sink import serve
from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.requests import Attachment, Options
from streams.providers.base import NotificationProvider, UnsupportedFeature
from streams.providers.registry import channel_of, provider_names
from streams.providers.sources import source_names
from tests.contracts.apns_server import KEY_ID, TEAM_ID, TOPIC, ApnsServer
from tests.contracts.deliveries import in_app_delivery, settings
from tests.contracts.mail_server import MailServer
from tests.contracts.test_in_app_contract import MemoryInbox

PAGE = Path(__file__).parents[2] / "docs" / "providers" / "README.md"


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, the header's first."""
    text = PAGE.read_text().partition(heading)[2].partition("\n| ")[2].partition("\n\n")[0]
    lines = [line for line in f"| {text}".splitlines() if not line.startswith("| ---")]
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines]


HEADER, *ROWS = rows("## What each can do")
MATRIX = {row[0]: dict(zip(HEADER[1:], row[1:], strict=True)) for row in ROWS}
#: One value for each option of the matrix.
VALUES: Mapping[str, Any] = {
    "email.from": "Shop <shop@acme.example>",
    "email.reply_to": "help@acme.example",
    "email.cc": ("copy@example.com",),
    "email.headers": {"X-Order": "7"},
    "email.tags": ("receipts",),
    # Fetched by us, and refused: no provider is asked for a file of a private address.
    "email.attachments": (Attachment(filename="a.pdf", url="http://127.0.0.1/a.pdf"),),
    "sms.sender": "ACME",
    "push.collapse_key": "order-7",
    "push.ttl_seconds": 60,
    "push.badge": 3,
    "push.data": {"order": "7"},
}
OPTIONS = {
    name.strip("`").removeprefix("options."): cells for name, cells in MATRIX.items() if name.startswith("`options.")
}


def test_the_matrix_has_every_provider() -> None:
    assert sorted(HEADER[1:]) == provider_names()
    for path in HEADER[1:]:
        assert f"]({path}.md)" in PAGE.read_text()


def test_the_matrix_asks_for_every_option() -> None:
    assert set(OPTIONS) == set(VALUES)
    for channel in ("email", "sms", "push"):
        part = Options.model_fields[channel].annotation
        assert part is not None
        names = {field.alias or name for kind in part.__args__ for name, field in _fields(kind).items()}
        in_matrix = {name.removeprefix(f"{channel}.") for name in VALUES if name.startswith(f"{channel}.")}
        assert names == in_matrix


def _fields(kind: Any) -> dict[str, Any]:
    return getattr(kind, "model_fields", {})


def test_options_are_those_of_the_channel() -> None:
    for option in VALUES:
        channel = Channel(option.partition(".")[0])
        for provider, cell in OPTIONS[option].items():
            assert bool(cell) == (channel_of(provider) is channel), f"{option}, {provider}"


def test_callbacks_are_those_that_can_be_read() -> None:
    assert [name for name, cell in MATRIX["callbacks"].items() if cell == "yes"] == [
        name for name in HEADER[1:] if name in source_names()
    ]


def test_statuses_are_asked_where_the_vendor_has_them() -> None:
    (cells,) = [cells for name, cells in MATRIX.items() if "get_status" in name]
    for name, cell in cells.items():
        provider = _class_of(name)
        assert (cell == "yes") == (provider.get_status is not NotificationProvider.get_status), name


def _class_of(name: str) -> type[NotificationProvider]:
    module = importlib.import_module(f"streams.providers.{name}")
    (found,) = [
        each
        for each in vars(module).values()
        if isinstance(each, type) and issubclass(each, NotificationProvider) and getattr(each, "name", None) == name
    ]
    return found


def test_the_vendors_own_options_are_all_named() -> None:
    named = {name: set(re.findall(r"`([^`]+)`", keys)) for name, keys in rows("`options.provider` passes on")[1:]}
    known = {
        name: set(getattr(importlib.import_module(f"streams.providers.{name}"), "_OWN_OPTIONS", ()))
        for name in provider_names()
    }
    assert named == {name: keys for name, keys in known.items() if keys}


# What is passed on, and what is refused


@pytest.fixture(params=HEADER[1:])
async def provider(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[NotificationProvider]:
    """Each provider, before a counterpart that takes everything."""
    name = request.param
    closing: list[Any] = []
    if name == "in_app":
        inbox = MemoryInbox()
        made: NotificationProvider = _class_of(name)(inbox=inbox, announcer=inbox)  # type: ignore[call-arg]
    elif name == "smtp":
        server = MailServer()
        await server.start()
        closing.append(server.stop)
        made = _class_of(name)(settings(smtp_host="127.0.0.1", smtp_port=server.port))  # type: ignore[call-arg]
    elif name == "apns":
        node = ApnsServer(tmp_path)
        request.addfinalizer(node.end)
        made = _class_of(name)(  # type: ignore[call-arg]
            settings(
                apns_base_url=node.url,
                apns_key_path=str(node.key_path),
                apns_key_id=KEY_ID,
                apns_team_id=TEAM_ID,
                apns_topic=TOPIC,
            )
        )
    else:
        for variable, value in VENDORS[name].environment.items():
            monkeypatch.setenv(variable, value)
        sink, _ = await serve(port=0, latency_ms=0.0)
        request.addfinalizer(sink.close)
        made = provider_at(VENDORS[name], sink.sockets[0].getsockname()[1], tmp_path)
    await made.open()
    yield made
    await made.close()
    for close in closing:
        await close()


def asking(provider: NotificationProvider, options: Mapping[str, Any]) -> Delivery:
    delivery = in_app_delivery() if provider.channel is Channel.IN_APP else delivery_for(provider)
    return delivery.model_copy(update={"options": Options.model_validate(options)})


async def test_it_takes_what_the_matrix_says(provider: NotificationProvider) -> None:
    for option, cells in OPTIONS.items():
        if option not in VALUES or not cells[provider.name]:
            continue
        channel, _, name = option.partition(".")
        delivery = asking(provider, {channel: {name: VALUES[option]}})
        try:
            result = await provider.send(delivery)
        except UnsupportedFeature as error:
            assert (cells[provider.name], error.field) == ("refused", f"options.{option}")
        else:
            expected = Outcome.PERMANENT if name == "attachments" else Outcome.SENT
            assert (cells[provider.name], result.outcome) == ("yes", expected), (option, result.reason)


async def test_it_refuses_an_option_that_nobody_knows(provider: NotificationProvider) -> None:
    if not MATRIX["unknown `options.provider`"][provider.name]:  # there is no vendor whose they could be
        assert (await provider.send(asking(provider, {"provider": {"pigeon": 1}}))).outcome is Outcome.SENT
        return
    with pytest.raises(UnsupportedFeature, match=r"options\.provider\.carrier_pigeon"):
        await provider.send(asking(provider, {"provider": {"carrier_pigeon": True}}))
