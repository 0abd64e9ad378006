"""Starting, knowing again and ending operating-system processes."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Callable
from typing import IO

import psutil

from cli.embedded.home import Home, write_atomically
from cli.embedded.parts import Part, run_options

#: A process is ours when its environment says so: pids are used again, names are not unique.
_PART_VARIABLE = "COMMS_PART"
_HOME_VARIABLE = "COMMS_HOME"

_LOG_FILE_LIMIT_BYTES = 20_000_000
_LEFTOVER_SECONDS = 10.0
_PR_SET_PDEATHSIG = 1


async def spawn(part: Part, home: Home) -> asyncio.subprocess.Process:
    """Starts the part in a session of its own, its output appended to its log, and writes its pid file."""
    with _open_log(home, part.name) as log:
        process = await asyncio.create_subprocess_exec(
            *part.command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=part.cwd,
            env=os.environ | {**part.env, _PART_VARIABLE: part.name, _HOME_VARIABLE: str(home.path)},
            # Away from the terminal, whose Ctrl-C would reach all at once: the order of stopping matters.
            start_new_session=True,
            preexec_fn=_dies_with_parent(part.stop_signal),
            **run_options(part.account),
        )
    write_atomically(home.pid_file(part.name), f"{process.pid}\n", mode=0o644)
    return process


def kill_group(pid: int) -> None:
    """Kills what a dead leader left running in its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def stop_leftovers(home: Home) -> list[str]:
    """Stops what a supervisor that was killed left running, and clears its pid files. Returns the names."""
    found: dict[str, psutil.Process] = {}
    for file in sorted(home.run.glob("*.pid")):
        with contextlib.suppress(psutil.Error, ValueError, OSError):
            process = psutil.Process(int(file.read_text()))
            if _is_ours(process.environ(), file.stem, home):
                found[file.stem] = process
    _end(found)
    for file in home.run.glob("*.pid"):
        file.unlink(missing_ok=True)
    return list(found)


def last_line(home: Home, name: str, limit: int = 200) -> str:
    """The end of the part's log, for an error message."""
    with contextlib.suppress(OSError), home.log_file(name).open("rb") as log:
        log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
        lines = [line.strip() for line in log.read().decode(errors="replace").splitlines()]
        return next((line[:limit] for line in reversed(lines) if line), "")
    return ""


def _is_ours(environment: dict[str, str], name: str, home: Home) -> bool:
    return environment.get(_PART_VARIABLE) == name and environment.get(_HOME_VARIABLE) == str(home.path)


def _end(processes: dict[str, psutil.Process]) -> None:
    for name, process in processes.items():
        with contextlib.suppress(psutil.Error):
            # Postgres takes SIGTERM as "when all clients are gone".
            process.send_signal(signal.SIGINT if name == "postgres" else signal.SIGTERM)
    _, alive = psutil.wait_procs(list(processes.values()), timeout=_LEFTOVER_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(alive, timeout=_LEFTOVER_SECONDS)


def _open_log(home: Home, name: str) -> IO[bytes]:
    """The part's log; one that has grown large is set aside first, in place of the one before it."""
    path = home.log_file(name)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > _LOG_FILE_LIMIT_BYTES:
            path.replace(path.with_suffix(".log.1"))
    return path.open("ab")


def _dies_with_parent(death_signal: signal.Signals) -> Callable[[], None] | None:
    """What the child does before it becomes the program: ask the kernel for a signal at our death.

    So a killed supervisor leaves nothing running. Only Linux can do that; elsewhere None.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is None:
        return None
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return ask
