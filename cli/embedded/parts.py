"""What the supervisor runs: a part is one process, described by plain data."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cli.embedded.ports import LOOPBACK


@dataclass(frozen=True)
class Account:
    """The user a process runs as."""

    user_id: int
    group_id: int


def run_options(account: Account | None) -> dict[str, Any]:
    """The arguments of `subprocess` that make a process run as that user (None: as ourselves)."""
    if account is None:
        return {}
    return {"user": account.user_id, "group": account.group_id, "extra_groups": []}


def _nothing() -> None:
    pass


@dataclass(frozen=True)
class Part:
    """One process that is to be kept running."""

    name: str
    command: tuple[str, ...]
    #: True once the part can be used; asked again and again until then. Exceptions count as "not yet".
    ready: Callable[[], Awaitable[bool]]
    #: What others need to reach it, e.g. {"REDIS_URL": "redis://127.0.0.1:12345/0"}.
    gives: Mapping[str, str] = field(default_factory=dict)
    #: Added to the supervisor's own environment.
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path | None = None
    account: Account | None = None
    #: Called before every start, in a thread; an exception counts as a failed start.
    before_start: Callable[[], None] = _nothing
    stop_signal: signal.Signals = signal.SIGTERM
    #: How long it may take to stop before it is killed.
    stop_seconds: float = 8.0


async def accepts(port: int) -> bool:
    """Whether something accepts connections on that port of loopback."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(LOOPBACK, port), timeout=2)
    except (OSError, TimeoutError):
        return False
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return True
