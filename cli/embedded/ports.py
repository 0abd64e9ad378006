"""Free ports on loopback, the same ones at the next start."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from cli import CommandError
from cli.embedded.home import write_atomically

LOOPBACK = "127.0.0.1"

#: Below the range from which the kernel takes the ports of outgoing connections (32768 and up, where it
#: is not set otherwise). A client that tries again and again to reach a dead server on a port of that
#: range ends up connected to itself, and the server can't come back to its port.
_CANDIDATES = range(12000, 32000)


def is_free(port: int, host: str = LOOPBACK) -> bool:
    """Whether a server could listen there now (connections still closing don't count)."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
    return True


class Ports:
    """Ports by name, remembered in a file."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._lock = threading.Lock()
        self._taken: dict[str, int] = {}
        self._remembered = self._read()

    def take(self, name: str) -> int:
        """The port of that name: the one of last time if it is free, else another.

        Within one `Ports` a name keeps its port, so that a server which died comes back to it.
        """
        with self._lock:
            if name not in self._taken:
                self._taken[name] = next(port for port in self._choices(name) if self._usable(port, name))
                self._remembered[name] = self._taken[name]
                write_atomically(self._file, json.dumps(self._remembered, indent=1))
            return self._taken[name]

    def _choices(self, name: str) -> Iterator[int]:
        if name in self._remembered:
            yield self._remembered[name]
        yield from random.sample(_CANDIDATES, 200)
        raise CommandError("no free port was found on loopback")

    def _usable(self, port: int, name: str) -> bool:
        others = {used for other, used in self._remembered.items() if other != name}
        return port not in others and is_free(port)

    def _read(self) -> dict[str, int]:
        try:
            ports = json.loads(self._file.read_text())
            return {str(name): int(port) for name, port in ports.items()}
        except (OSError, ValueError, AttributeError, TypeError):
            return {}
