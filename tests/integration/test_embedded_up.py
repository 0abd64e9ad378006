"""`comms up` as a person starts it: everything runs, comes back after kill -9, and stops."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from cli.embedded.accounts import forget_reachable_folder
from cli.embedded.home import Home
from cli.embedded.ports import Ports

_ROOT = Path(__file__).parents[2]
_START_SECONDS = 120.0
_PARTS = {"kafka", "postgres", "valkey", "identity", "mail", "worker-1", "api"}
_SERVERS = ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "REDIS_URL", "IDENTITY_SERVICE_URL")


class Up:
    """`comms up` in a home of its own."""

    def __init__(self, folder: Path) -> None:
        self.home = Home.open(folder / "comms home")
        self.output = folder / "output"
        self.port = Ports(folder / "ports.json").take("api")
        self._process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        named = {*_SERVERS, "SMTP_HOST", "EMAIL_PROVIDERS"}
        own = {"COMMS_HOME": str(self.home.path), "PORT": str(self.port), "PYTHONPATH": str(_ROOT)}
        return {name: value for name, value in os.environ.items() if name not in named} | own

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cli.main", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            check=False,
        )

    def start(self) -> None:
        with self.output.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "cli.main", "up", "--no-demo"],
                env=self.environment(),
                stdout=output,
                stderr=output,
            )
        _until(lambda: self._ended() or "a token" in self.output.read_text(), _START_SECONDS)
        assert not self._ended(), self.output.read_text()

    def stop(self) -> int:
        """Sends SIGTERM; returns the exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(timeout=30)

    def end(self) -> None:
        if self._process is not None and not self._ended():
            self.stop()

    def pids(self) -> dict[str, int]:
        return {file.stem: int(file.read_text()) for file in self.home.run.glob("*.pid")}

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/ready", trust_env=False).status_code == 200
        except httpx.HTTPError:
            return False

    def _ended(self) -> bool:
        return self._process is not None and self._process.poll() is not None


def _until(condition: Callable[[], bool], within_seconds: float) -> None:
    deadline = time.monotonic() + within_seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to that in time"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    folder = Path(tempfile.mkdtemp(prefix="comms up "))
    running = Up(folder)
    try:
        running.start()
        yield running
    finally:
        running.end()
        forget_reachable_folder(running.home.path)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.timeout(400)
def test_all_parts_run_and_their_urls_are_written_down(up: Up) -> None:
    assert set(up.pids()) == _PARTS
    assert all(psutil.pid_exists(pid) for pid in up.pids().values())
    urls = up.home.read_env()
    assert set(_SERVERS) <= urls.keys()
    for name in ("METRICS_URL_API", "METRICS_URL_WORKER_1"):
        assert httpx.get(urls[name], trust_env=False).status_code == 200


def test_another_one_in_the_same_home_is_refused_in_one_line(up: Up) -> None:
    result = up.command("up")
    assert result.returncode == 1
    assert result.stderr == f"comms: `comms up` is already running in {up.home.path}\n"


def test_its_token_is_taken_by_the_api(up: Up) -> None:
    token = up.command("token", "--role", "service", "--user", "tester").stdout.splitlines()[-1]
    url = f"http://127.0.0.1:{up.port}/api/v1/notifications?limit=1"
    assert httpx.get(url, trust_env=False).status_code == 401
    answer = httpx.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)
    assert answer.status_code == 200


@pytest.mark.timeout(400)
def test_what_is_killed_comes_back_to_the_same_address(up: Up) -> None:
    before, urls = up.pids(), up.home.read_env()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    _until(lambda: up.pids().keys() == _PARTS and not set(up.pids().values()) & set(before.values()), 30)
    _until(up.is_ready, _START_SECONDS)
    assert up.home.read_env() == urls


@pytest.mark.timeout(400)
def test_sigterm_stops_all_and_the_next_start_finds_what_was_there(up: Up) -> None:
    pids, urls = up.pids(), up.home.read_env()
    assert up.stop() == 0
    assert not any(psutil.pid_exists(pid) for pid in pids.values())
    assert up.pids() == {}
    up.start()
    assert up.home.read_env() == urls
    assert up.is_ready()


def test_a_taken_port_is_named(up: Up) -> None:
    other = {**up.environment(), "COMMS_HOME": str(up.home.path.with_name("other"))}
    result = subprocess.run(
        [sys.executable, "-m", "cli.main", "up"], env=other, capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"comms: PORT {up.port} is taken")
    assert result.stderr.count("\n") == 1
