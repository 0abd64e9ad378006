"""What both push vendors ask of `options.provider`, and how what it holds is laid over a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from models.deliveries import Delivery
from models.errors import Refused
from models.requests import Device
from streams.providers.base import UnsupportedFeature

_SHOWABLE = re.compile(r"[a-z][a-z0-9_]{0,40}")


def own_options(delivery: Delivery, takes: Mapping[str, type], *, provider: str) -> dict[str, Any]:
    """What is for this vendor alone.

    Raises:
        UnsupportedFeature: for the first that it doesn't know.
        Refused: for one of another type.
    """
    options = delivery.options.provider or {}
    for name, value in options.items():
        if name not in takes:
            # The name is the caller's text: it is repeated only where it looks like one.
            shown = f"options.provider.{name}" if _SHOWABLE.fullmatch(name) else "options.provider"
            raise UnsupportedFeature(shown, provider)
        if not isinstance(value, takes[name]):
            raise Refused(f"options.provider.{name}", "has the wrong type")
    return options


def device_of(delivery: Delivery, platform: str) -> Device | None:
    """The one device that a call is for: the first of the platform."""
    return next((device for device in delivery.devices if device.platform == platform), None)


def laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Both, level by level; where both have a value, the upper one's."""
    merged = dict(below)
    for name, value in above.items():
        under = merged.get(name)
        merged[name] = laid_over(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged
