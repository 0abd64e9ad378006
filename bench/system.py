"""The whole service as people start it (`comms up`), with the provider sink in SendGrid's place.

Used by the benchmarks and by the fault tests: parts are killed by their pid files, as an operator would.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import psutil

_ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 180.0
_STOP_SECONDS = 60.0


def free_port() -> int:
    """A port that nothing listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@dataclass
class System:
    """A running service. `settings` are those that `comms up` wrote to its home."""

    home: Path
    port: int
    sink_url: str
    settings: Mapping[str, str] = field(default_factory=dict)
    tokens: dict[str, str] = field(default_factory=dict)

    @property
    def api_url(self) -> str:
        """Where the API listens."""
        return f"http://127.0.0.1:{self.port}/api/v1"

    def pid(self, name: str) -> int:
        """The process of a part, by its pid file."""
        return int((self.home / "run" / f"{name}.pid").read_text())

    def kill(self, name: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Sends a signal to a part; returns the pid it had."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    def cpu_seconds(self, name: str) -> float:
        """CPU time that a part and its children have used since they started."""
        return cpu_seconds(self.pid(name))

    def resident_mb(self, name: str) -> float:
        """The memory that a part itself holds, in megabytes (10**6 bytes)."""
        return float(psutil.Process(self.pid(name)).memory_info().rss) / 1e6

    def workers(self) -> list[str]:
        """The names of the worker processes."""
        return sorted(path.stem for path in (self.home / "run").glob("worker-*.pid"))

    @asynccontextmanager
    async def database(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to the service's database."""
        connection = await asyncpg.connect(self.settings["DATABASE_URL"])
        try:
            yield connection
        finally:
            await connection.close()

    def headers(self, role: str = "service", user: str = "bench") -> dict[str, str]:
        """The request headers of a caller with that role."""
        if role not in self.tokens:
            told = self._comms("token", "--role", role, "--user", user)
            self.tokens[role] = told.stdout.strip().splitlines()[-1]
        return {"Authorization": f"Bearer {self.tokens[role]}"}

    async def ledger(self) -> dict[str, Any]:
        """What the sink received, by delivery id."""
        return await self._sink("/ledger")

    async def summary(self) -> dict[str, Any]:
        """The sums of what the sink received."""
        return await self._sink("/summary")

    async def behave(self, **behaviour: Any) -> None:
        """Sets how the sink answers from now on."""
        async with httpx.AsyncClient() as client:
            (await client.post(f"{self.sink_url}/behaviour", json=behaviour)).raise_for_status()

    async def call_starts(self) -> list[float]:
        """When each provider call began, in seconds of the machine's monotonic clock, in order."""
        ledger = (await self.ledger())["ledger"]
        return sorted(float(monotonic) for entry in ledger.values() for _, monotonic in entry["starts"])

    async def _sink(self, path: str) -> dict[str, Any]:
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.get(f"{self.sink_url}{path}")
            found: dict[str, Any] = answer.json()
            return found

    def _comms(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=_ROOT,
            env={**os.environ, "COMMS_HOME": str(self.home)},
            capture_output=True,
            text=True,
            check=True,
        )


def cpu_seconds(pid: int) -> float:
    """CPU time that a process and its children have used since they started."""
    process = psutil.Process(pid)
    times = []
    for each in (process, *process.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times.append(each.cpu_times())
    return float(sum(each.user + each.system for each in times))


@contextmanager
def frozen(pids: Iterable[int]) -> Iterator[None]:
    """Stops processes for a while, without their noticing."""
    stopped = []
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            stopped.append(pid)
        yield
    finally:
        for pid in stopped:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def end(process: subprocess.Popen[Any], *, within_seconds: float = 10.0) -> None:
    """Ends a process that was started here: politely, and if that takes too long for good."""
    process.terminate()
    try:
        process.wait(within_seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@asynccontextmanager
async def running_system(
    home: Path, *, workers: int = 1, latency_ms: float = 20.0, to_sink: bool = True, **settings: str
) -> AsyncIterator[System]:
    """Starts everything, waits until it is ready, and stops it again.

    Without `to_sink` e-mails go by SMTP to the mail catcher that `comms up` brings along.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o711)
    system = System(home, free_port(), f"http://127.0.0.1:{free_port()}")
    sink_port = system.sink_url.rsplit(":", 1)[1]
    sink = subprocess.Popen(
        [sys.executable, "-m", "bench.provider_sink", "--port", sink_port, "--latency-ms", str(latency_ms)],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
    )
    provider = {
        "EMAIL_PROVIDERS": "sendgrid",
        "SENDGRID_API_KEY": "for-the-sink",
        "SENDGRID_BASE_URL": system.sink_url,
    }
    own = {"COMMS_HOME": str(home), "PORT": str(system.port), "WORKERS": str(workers)}
    up = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "up", "--no-demo"],
        cwd=_ROOT,
        env={**os.environ, **own, **(provider if to_sink else {}), **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        await _until_ready(system, up)
        system.settings = _read_env(home / "env")
        yield system
    finally:
        try:
            await asyncio.to_thread(end, up, within_seconds=_STOP_SECONDS)
        finally:
            _kill_leftovers(home)
            end(sink)


def _kill_leftovers(home: Path) -> None:
    """What still runs of a `comms up` that had to be killed; one that ended in order leaves no pid file."""
    for path in (home / "run").glob("*.pid"):
        with suppress(ProcessLookupError, ValueError, FileNotFoundError):
            os.killpg(int(path.read_text()), signal.SIGKILL)


async def _until_ready(system: System, up: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    async with httpx.AsyncClient(timeout=5) as client:
        while time.monotonic() < deadline:
            if up.poll() is not None:
                raise RuntimeError(f"comms up ended: {up.stderr.read() if up.stderr else ''}")
            try:
                ready = await client.get(f"http://127.0.0.1:{system.port}/ready")
            except httpx.HTTPError:
                ready = None
            workers = (system.home / "env").exists()
            if ready is not None and ready.status_code == httpx.codes.OK and workers:
                return
            await asyncio.sleep(0.2)
    raise RuntimeError(f"not ready within {_START_SECONDS:.0f} s; see {system.home / 'log'}")


def _read_env(path: Path) -> dict[str, str]:
    pairs = (line.split("=", 1) for line in path.read_text().splitlines() if "=" in line)
    return dict(pairs)
