"""The service's own processes, as `comms up` runs them: migration, workers, API."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from cli import CommandError
from cli.embedded.home import Home
from cli.embedded.parts import Part, accepts
from cli.embedded.ports import LOOPBACK, is_free
from cli.embedded.processes import last_line, spawn
from cli.embedded.programs import python_environment, python_module

_STOP_SECONDS = 20.0
_ALL_ADDRESSES = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not bound to


def number_setting(environment: Mapping[str, str], name: str, default: int, *, low: int, high: int) -> int:
    """A whole number from the environment. Raises CommandError naming the setting when it is none."""
    text = environment.get(name) or str(default)
    if not text.isdecimal() or not low <= int(text) <= high:
        raise CommandError(f"{name} must be a whole number from {low} to {high}")
    return int(text)


def check_port(environment: Mapping[str, str]) -> int:
    """PORT, where the API is to listen. Raises CommandError when it is no port or is taken."""
    port = number_setting(environment, "PORT", 8002, low=1, high=65535)
    if not is_free(port, environment.get("HOST") or LOOPBACK):
        raise CommandError(f"PORT {port} is taken by another program: end that, or set PORT to a free one")
    return port


def own_settings(home: Home, environment: Mapping[str, str], port: int) -> dict[str, str]:
    """The settings that go with no server; what the environment says goes first."""
    host = environment.get("HOST") or LOOPBACK
    return {
        "HOST": host,
        "PORT": str(port),
        "PUBLIC_URL": environment.get("PUBLIC_URL") or f"http://{_reach(host)}:{port}",
        "SECRET_KEY": environment.get("SECRET_KEY") or home.secret("links"),
    }


def api_part(settings: Mapping[str, str], metrics_port: int) -> Part:
    """The API; ready when it says that all it depends on answers."""
    url = f"http://{_reach(settings['HOST'])}:{settings['PORT']}"
    return Part(
        name="api",
        command=python_module("cli.main", "api"),
        env={**python_environment(), **settings, "METRICS_PORT": str(metrics_port)},
        ready=lambda: _answers_ok(f"{url}/ready"),
        stop_seconds=_STOP_SECONDS,
    )


def worker_part(number: int, settings: Mapping[str, str], metrics_port: int) -> Part:
    """A worker process; ready when its metrics can be read."""
    return Part(
        name=f"worker-{number}",
        command=python_module("cli.main", "worker"),
        env={**python_environment(), **settings, "METRICS_PORT": str(metrics_port)},
        ready=lambda: accepts(metrics_port),
        stop_seconds=_STOP_SECONDS,
    )


async def migrate(home: Home, settings: Mapping[str, str]) -> None:
    """Runs `comms migrate` to its end. Raises CommandError, with the end of its log, when it fails."""
    part = Part(
        name="migrate",
        command=python_module("cli.main", "migrate"),
        env={**python_environment(), **settings},
        ready=_always,
    )
    process = await spawn(part, home)
    try:
        code = await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        home.pid_file(part.name).unlink(missing_ok=True)
    if code != 0:
        raise CommandError(f"the migration failed: {last_line(home, part.name)}")


def _reach(host: str) -> str:
    """Where a server that listens on `host` is reached from this machine."""
    return LOOPBACK if host in _ALL_ADDRESSES else host


async def _always() -> bool:
    return True


async def _answers_ok(url: str) -> bool:
    import aiohttp

    timeout = aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(timeout=timeout, trust_env=False) as session, session.get(url) as answer:
        return answer.status == 200
