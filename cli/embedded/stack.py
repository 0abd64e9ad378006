"""Which servers there are, and starting them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from cli.embedded import identity, kafka, mail, postgres, valkey
from cli.embedded.home import Home
from cli.embedded.parts import Part
from cli.embedded.ports import Ports
from cli.embedded.supervisor import Supervisor


class Prepare(Protocol):
    """Makes on disk what a server needs, and says how to run it."""

    def __call__(
        self, home: Home, ports: Ports, *, progress: Callable[[str], None], cancelled: threading.Event
    ) -> Part: ...


@dataclass(frozen=True)
class Server:
    """One of the servers that can be brought along."""

    name: str
    prepare: Prepare
    #: Any of these settings says that there is such a server already.
    unless: tuple[str, ...]

    def is_wanted(self, environment: Mapping[str, str]) -> bool:
        return not any(environment.get(name) for name in self.unless)


SERVERS = (
    Server("kafka", kafka.prepare, unless=("KAFKA_BOOTSTRAP_SERVERS",)),
    Server("postgres", lambda home, ports, **_: postgres.prepare(home, ports), unless=("DATABASE_URL",)),
    Server("valkey", lambda home, ports, **_: valkey.prepare(home, ports), unless=("REDIS_URL",)),
    Server("identity", lambda home, ports, **_: identity.prepare(home, ports), unless=("IDENTITY_SERVICE_URL",)),
    Server("mail", lambda home, ports, **_: mail.prepare(home, ports), unless=("SMTP_HOST", "EMAIL_PROVIDERS")),
)


async def start_server(
    server: Server,
    supervisor: Supervisor,
    home: Home,
    ports: Ports,
    *,
    progress: Callable[[str], None] = lambda message: None,
    cancelled: threading.Event | None = None,
) -> Mapping[str, str]:
    """Prepares and starts one server; returns the settings by which it is reached."""
    part = await asyncio.to_thread(
        server.prepare, home, ports, progress=progress, cancelled=cancelled or threading.Event()
    )
    await supervisor.start(part)
    return part.gives
