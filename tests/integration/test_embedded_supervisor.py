"""The supervisor, on small programs: what dies is started again, what must stop stops."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from cli import CommandError
from cli.embedded.home import Home
from cli.embedded.parts import Part
from cli.embedded.ports import Ports, is_free
from cli.embedded.processes import stop_leftovers
from cli.embedded.supervisor import Supervisor

_STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)"
_FOREVER = "\nimport time\ntime.sleep(600)"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.open(tmp_path / "a home, with: odd=characters")


def _part(home: Home, name: str, program: str, *, ready: str | None = None, stop_seconds: float = 5.0) -> Part:
    """A Python program; `ready`: once that is in its log."""

    async def is_ready() -> bool:
        return ready is None or ready in home.log_file(name).read_text()

    return Part(name, (sys.executable, "-c", program), is_ready, stop_seconds=stop_seconds)


def _pid(home: Home, name: str) -> int | None:
    try:
        return int(home.pid_file(name).read_text())
    except FileNotFoundError:
        return None


async def _until(condition: Callable[[], object], within_seconds: float = 10.0) -> None:
    async with asyncio.timeout(within_seconds):
        while not condition():
            await asyncio.sleep(0.02)


async def _pid_of(home: Home, name: str) -> int:
    await _until(lambda: _pid(home, name))
    pid = _pid(home, name)
    assert pid is not None
    return pid


async def test_what_is_killed_is_started_again_at_once(home: Home) -> None:
    said: list[str] = []
    async with Supervisor(home, said.append) as supervisor:
        await supervisor.start(_part(home, "sleeper", _FOREVER))
        first = await _pid_of(home, "sleeper")
        os.kill(first, signal.SIGKILL)
        await _until(lambda: _pid(home, "sleeper") not in (None, first), within_seconds=2)
        second = await _pid_of(home, "sleeper")
    assert said == ["sleeper was ended by signal 9: started again now"]
    assert not psutil.pid_exists(second)
    assert _pid(home, "sleeper") is None


async def test_a_part_that_never_comes_up_is_given_up_with_the_end_of_its_log(home: Home) -> None:
    part = _part(home, "broken", "print('REDIS_URL is not set'); raise SystemExit(3)", ready="never")
    async with Supervisor(home) as supervisor:
        with pytest.raises(CommandError, match=r"broken ended with exit code 3.* ends: REDIS_URL is not set"):
            await supervisor.start(part)


async def test_a_part_that_is_not_ready_in_time_is_named(home: Home) -> None:
    async with Supervisor(home) as supervisor:
        with pytest.raises(CommandError, match="slow is not ready after 0 s"):
            await supervisor.start(_part(home, "slow", _FOREVER, ready="never"), within_seconds=0.3)


async def test_a_program_that_is_not_there_is_an_error_not_a_hang(home: Home) -> None:
    async def never() -> bool:
        return False

    async with Supervisor(home) as supervisor:
        with pytest.raises(CommandError, match="absent can't be started"):
            await supervisor.start(Part("absent", ("/nonexistent/program",), never))


async def test_what_does_not_stop_is_killed(home: Home) -> None:
    said: list[str] = []
    async with Supervisor(home, said.append) as supervisor:
        part = _part(home, "stubborn", _STUBBORN + _FOREVER, ready="up", stop_seconds=0.3)
        await supervisor.start(part)
        pid = await _pid_of(home, "stubborn")
    assert said == ["stubborn did not stop within 0 s: killed"]
    assert not psutil.pid_exists(pid)


async def test_children_of_a_killed_part_go_with_it(home: Home) -> None:
    program = "import subprocess, sys; print(subprocess.Popen(['sleep', '600']).pid, flush=True)" + _FOREVER
    async with Supervisor(home) as supervisor:
        await supervisor.start(_part(home, "parent", program, ready="\n"))
        child = int(home.log_file("parent").read_text().splitlines()[0])
        os.kill(await _pid_of(home, "parent"), signal.SIGKILL)
        await _until(lambda: not _runs(child))


def _runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


_SUPERVISING = """
import asyncio, sys
from cli.embedded.home import Home
from cli.embedded.parts import Part
from cli.embedded.supervisor import Supervisor

async def ready():
    return True

async def main():
    async with Supervisor(Home.open(sys.argv[1])) as supervisor:
        await supervisor.start(Part("child", ("sleep", "600"), ready))
        await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
async def test_a_killed_supervisor_leaves_nothing_running(home: Home) -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", _SUPERVISING, str(home.path)])
    child = await _pid_of(home, "child")
    supervisor.kill()
    supervisor.wait()
    await _until(lambda: not _runs(child))


@pytest.fixture
def leftover(home: Home) -> Iterator[subprocess.Popen[bytes]]:
    """A process as a killed supervisor would leave it, with its pid file."""
    marks = {"COMMS_PART": "old", "COMMS_HOME": str(home.path)}
    process = subprocess.Popen(["sleep", "600"], env=os.environ | marks)
    home.pid_file("old").write_text(f"{process.pid}\n")
    yield process
    process.kill()
    process.wait()


async def test_leftovers_are_stopped(home: Home, leftover: subprocess.Popen[bytes]) -> None:
    assert await asyncio.to_thread(stop_leftovers, home) == ["old"]
    assert not _runs(leftover.pid)
    assert _pid(home, "old") is None


def test_a_stranger_with_a_pid_of_ours_is_left_alone(home: Home, leftover: subprocess.Popen[bytes]) -> None:
    home.pid_file("old").unlink()
    home.pid_file("other").write_text(str(leftover.pid))
    home.pid_file("gone").write_text("999999999")
    home.pid_file("odd").write_text("not a number")
    assert stop_leftovers(home) == []
    assert leftover.poll() is None
    assert not list(home.run.glob("*.pid"))


def test_ports_are_remembered_unless_they_are_taken(tmp_path: Path) -> None:
    file = tmp_path / "ports.json"
    ports = Ports(file)
    kafka, mail = ports.take("kafka"), ports.take("mail")
    assert kafka != mail
    with socket.create_server(("127.0.0.1", kafka)):
        assert not is_free(kafka)
        again = Ports(file)
        assert again.take("mail") == mail
        moved = again.take("kafka")
        assert moved != kafka
    assert Ports(file).take("kafka") == moved


@pytest.mark.parametrize("content", ["", "[]", '{"kafka": "x"}', "{"])
def test_a_damaged_memory_of_ports_is_no_obstacle(tmp_path: Path, content: str) -> None:
    file = tmp_path / "ports.json"
    file.write_text(content)
    assert is_free(Ports(file).take("kafka"))
