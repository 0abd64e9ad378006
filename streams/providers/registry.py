"""All providers by name. A new one is a file beside this, an entry here, and its name among the settings.

A provider's module is imported when one is first built: the SDKs of vendors that aren't in use would take 15 MB of each
process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.enums import Channel
from models.errors import Refused
from models.settings import Settings
from streams.attachments import Attachments
from streams.providers.base import NotificationProvider
from streams.providers.in_app import Announcer, Inbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What providers are made of."""

    settings: Settings
    inbox: Inbox
    announcer: Announcer
    attachments: Attachments


def _smtp(given: Services) -> NotificationProvider:
    from streams.providers.smtp import SmtpProvider

    return SmtpProvider(given.settings, attachments=given.attachments)


def _sendgrid(given: Services) -> NotificationProvider:
    from streams.providers.sendgrid import SendGridProvider

    return SendGridProvider(given.settings, attachments=given.attachments)


def _ses(given: Services) -> NotificationProvider:
    from streams.providers.ses import SesProvider

    return SesProvider(given.settings, attachments=given.attachments)


def _fcm(given: Services) -> NotificationProvider:
    from streams.providers.fcm import FcmProvider

    return FcmProvider(given.settings)


def _apns(given: Services) -> NotificationProvider:
    from streams.providers.apns import ApnsProvider

    return ApnsProvider(given.settings)


def _twilio(given: Services) -> NotificationProvider:
    from streams.providers.twilio import TwilioProvider

    return TwilioProvider(given.settings)


def _sns(given: Services) -> NotificationProvider:
    from streams.providers.sns import SnsProvider

    return SnsProvider(given.settings)


def _in_app(given: Services) -> NotificationProvider:
    from streams.providers.in_app import InAppProvider

    return InAppProvider(inbox=given.inbox, announcer=given.announcer)


_PROVIDERS: dict[tuple[Channel, str], Callable[[Services], NotificationProvider]] = {
    (Channel.EMAIL, "smtp"): _smtp,
    (Channel.EMAIL, "sendgrid"): _sendgrid,
    (Channel.EMAIL, "ses"): _ses,
    (Channel.PUSH, "fcm"): _fcm,
    (Channel.PUSH, "apns"): _apns,
    (Channel.SMS, "twilio"): _twilio,
    (Channel.SMS, "sns"): _sns,
    (Channel.IN_APP, "in_app"): _in_app,
}


def provider_names() -> list[str]:
    """The names of all providers there are."""
    return sorted({name for _, name in _PROVIDERS})


def build_provider(name: str, settings: Settings, *, inbox: Inbox, announcer: Announcer) -> NotificationProvider:
    """One provider by itself, whatever the chains are.

    Raises:
        Refused: naming the setting that it misses.
        KeyError: when there is no provider of this name.
    """
    given = Services(settings=settings, inbox=inbox, announcer=announcer, attachments=Attachments(settings))
    return _PROVIDERS[channel_of(name), name](given)


def channel_of(name: str) -> Channel:
    """The channel of a provider. Raises KeyError when there is none of this name."""
    return {known: channel for channel, known in _PROVIDERS}[name]


def build_chain(
    channel: Channel, settings: Settings, *, inbox: Inbox, announcer: Announcer
) -> list[NotificationProvider]:
    """The fail-over chain of a channel, first choice first; empty where none is configured.

    Raises:
        Refused: naming the setting that a provider of the chain misses.
    """
    given = Services(settings=settings, inbox=inbox, announcer=announcer, attachments=Attachments(settings))
    chain = []
    for name in settings.providers(channel):
        build = _PROVIDERS.get((channel, name))
        if build is None:
            raise Refused(f"{channel.upper()}_PROVIDERS", "names a provider that this version doesn't have")
        chain.append(build(given))
    return chain
