"""What the lanes know of a person and of a category when they decide about a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from models.enums import Channel
from models.requests import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person's addresses and choices. All empty for somebody unknown."""

    user_id: str
    email: str | None = None
    phone: str | None = None
    name: str | None = None
    locale: str | None = None
    timezone: str | None = None
    devices: tuple[Device, ...] = ()
    #: Only what the person chose: channel → wanted or not.
    channels: Mapping[str, bool] = field(default_factory=dict)
    #: Only what the person chose: category → channel → wanted or not.
    categories: Mapping[str, Mapping[str, bool]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """What hangs on a category. Opt-outs don't hold for a transactional one."""

    key: str
    transactional: bool = False
    default_channels: tuple[Channel, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """The published parts of one channel of a template in one locale."""

    key: str
    locale: str
    version: int
    channel: Channel
    parts: Mapping[str, str]
