"""All that the routes work with, made once per process."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy.ext.asyncio import AsyncEngine

from api.checks import Checks
from api.health import Probes
from api.identity import Identifies
from models.enums import Priority
from models.requests import NotificationRequest
from models.settings import Settings
from streams.callbacks import Callbacks
from streams.domain.templates import Renderer
from streams.intake import Accepted
from streams.markers import Markers
from streams.people_versions import PeopleVersions
from streams.provider_states import ProviderStates
from streams.rate_limits import LimitScripts
from streams.records import Headers, Outgoing


class Accepts(Protocol):
    """The part of the intake that the API needs."""

    def accept(
        self, request: NotificationRequest, *, client: str, priority: Priority, headers: Headers = ()
    ) -> Awaitable[Accepted]:
        """Makes a request durable; raises Conflict or Unavailable."""

    def publish(self, records: Sequence[Outgoing]) -> Awaitable[bool]:
        """Makes records durable that need no row; raises Unavailable or TimeoutError."""


def root_path(settings: Settings) -> str:
    """The gateway's prefix as it stands before each path: empty, or with a slash in front and none behind."""
    prefix = settings.root_path.strip("/")
    return f"/{prefix}" if prefix else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """What a process has to serve requests with."""

    settings: Settings
    engine: AsyncEngine
    intake: Accepts
    identity: Identifies
    checks: Checks
    renderer: Renderer
    probes: Probes
    markers: Markers
    limits: LimitScripts
    people: PeopleVersions
    callbacks: Callbacks
    states: ProviderStates
