"""Whose callbacks are believed, by the last part of their path. A vendor whose key isn't set is absent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from models.errors import Refused
from models.settings import Settings
from streams.providers.callbacks import CallbackSource
from streams.providers.sendgrid_callbacks import SendGridCallbacks
from streams.providers.ses import SesCallbacks
from streams.providers.sns import SnsCallbacks
from streams.providers.twilio_callbacks import TwilioCallbacks

_SOURCES: Mapping[str, Callable[[Settings], CallbackSource]] = {
    "sendgrid": SendGridCallbacks,
    "ses": SesCallbacks,
    "sns": SnsCallbacks,
    "twilio": TwilioCallbacks,
}


def source_names() -> list[str]:
    """The names of all vendors whose callbacks can be read."""
    return sorted(_SOURCES)


def build_sources(settings: Settings) -> dict[str, CallbackSource]:
    """The sources that are configured, by name.

    Raises:
        Refused: naming a setting that is there, and wrong.
    """
    found = {}
    for name, build in _SOURCES.items():
        try:
            found[name] = build(settings)
        except Refused as error:
            if error.reason != "is not set":
                raise
    return found
