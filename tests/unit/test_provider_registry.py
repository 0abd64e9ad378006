"""Which providers a channel gets."""

from __future__ import annotations

import pytest

from models.enums import Channel
from models.errors import Refused
from models.settings import Settings
from streams.providers.registry import build_chain
from tests.contracts.deliveries import API_KEY, settings
from tests.contracts.test_in_app_contract import MemoryInbox


def chain(channel: Channel, given: Settings) -> list[str]:
    inbox = MemoryInbox()
    return [provider.name for provider in build_chain(channel, given, inbox=inbox, announcer=inbox)]


def test_a_chain_keeps_the_order_of_the_settings() -> None:
    fields = {"smtp_host": "mail.test", "sendgrid_api_key": API_KEY}
    for names in (("smtp", "sendgrid"), ("sendgrid", "smtp"), ("smtp",)):
        assert chain(Channel.EMAIL, settings(email_providers=names, **fields)) == list(names)


def test_in_app_needs_no_setting() -> None:
    assert chain(Channel.IN_APP, settings()) == ["in_app"]


@pytest.mark.parametrize("channel", [Channel.SMS, Channel.PUSH])
def test_a_channel_without_providers_is_empty(channel: Channel) -> None:
    assert chain(channel, settings()) == []


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(Refused, match="SENDGRID_API_KEY"):
        chain(Channel.EMAIL, settings(email_providers=("sendgrid",)))


def test_a_provider_of_another_version_is_named_by_its_setting() -> None:
    unchecked = settings().model_copy(update={"email_providers": ("carrier_pigeon",)})
    with pytest.raises(Refused, match="EMAIL_PROVIDERS"):
        chain(Channel.EMAIL, unchecked)
