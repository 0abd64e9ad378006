"""All providers by name. A new one is a file beside this, a line here, and its name among the settings' known ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from models.enums import Channel
from models.errors import Refused
from models.settings import Settings
from streams.attachments import Attachments
from streams.providers.apns import ApnsProvider
from streams.providers.base import NotificationProvider
from streams.providers.fcm import FcmProvider
from streams.providers.in_app import Announcer, InAppProvider, Inbox
from streams.providers.sendgrid import SendGridProvider
from streams.providers.ses import SesProvider
from streams.providers.smtp import SmtpProvider
from streams.providers.sns import SnsProvider
from streams.providers.twilio import TwilioProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What providers are made of."""

    settings: Settings
    inbox: Inbox
    announcer: Announcer
    attachments: Attachments


_PROVIDERS: dict[tuple[Channel, str], Callable[[Services], NotificationProvider]] = {
    (Channel.EMAIL, "smtp"): lambda given: SmtpProvider(given.settings, attachments=given.attachments),
    (Channel.EMAIL, "sendgrid"): lambda given: SendGridProvider(given.settings, attachments=given.attachments),
    (Channel.EMAIL, "ses"): lambda given: SesProvider(given.settings, attachments=given.attachments),
    (Channel.PUSH, "fcm"): lambda given: FcmProvider(given.settings),
    (Channel.PUSH, "apns"): lambda given: ApnsProvider(given.settings),
    (Channel.SMS, "twilio"): lambda given: TwilioProvider(given.settings),
    (Channel.SMS, "sns"): lambda given: SnsProvider(given.settings),
    (Channel.IN_APP, "in_app"): lambda given: InAppProvider(inbox=given.inbox, announcer=given.announcer),
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
