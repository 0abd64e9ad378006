"""Keeps parts running: whatever dies is started again until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from types import TracebackType

from cli import CommandError
from cli.embedded.home import Home
from cli.embedded.parts import Part
from cli.embedded.processes import kill_group, last_line, spawn

#: Waits before a part is started again, by the number of its failures in a row.
_BACKOFF_SECONDS = (0.0, 0.5, 1.0, 2.0, 4.0, 5.0)
#: A part that ran this long was well: its next death counts as the first.
_HEALTHY_SECONDS = 15.0
#: So many failures before it was ever ready, and the start is given up.
_FAILED_STARTS = 3
_READY_POLL_SECONDS = 0.05


def backoff_seconds(failures: int) -> float:
    """How long to wait before the next start, after `failures` deaths in a row (1 or more)."""
    return _BACKOFF_SECONDS[min(failures, len(_BACKOFF_SECONDS)) - 1]


class _Keeper:
    """One part and the process that runs it now."""

    def __init__(self, part: Part, home: Home, say: Callable[[str], None]) -> None:
        self.part = part
        self.failures = 0
        self.reason = ""
        self._home = home
        self._say = say
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._task = asyncio.create_task(self._keep(), name=f"keep-{part.name}")

    async def stop(self, within_seconds: float) -> None:
        """Asks the process to end, and kills it when it has not after that time."""
        self._stopping.set()
        self._signal(self.part.stop_signal)
        _, pending = await asyncio.wait([self._task], timeout=within_seconds)
        if pending:
            self._say(f"{self.part.name} did not stop within {within_seconds:.0f} s: killed")
            self.kill()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _keep(self) -> None:
        clock = asyncio.get_running_loop().time
        while not self._stopping.is_set():
            started = clock()
            self.reason = await self._run_once()
            if self._stopping.is_set():
                return
            self.failures = 1 if clock() - started > _HEALTHY_SECONDS else self.failures + 1
            delay = backoff_seconds(self.failures)
            again = f"in {delay:g} s" if delay else "now"
            self._say(f"{self.part.name} {self.reason}: started again {again}")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), timeout=delay or 0.001)

    async def _run_once(self) -> str:
        """Runs the process to its end; returns what became of it, as the rest of a sentence."""
        try:
            await asyncio.to_thread(self.part.before_start)
            if self._stopping.is_set():
                return "was not started"
            self._process = await spawn(self.part, self._home)
        except (OSError, CommandError) as error:
            return f"can't be started ({error})"
        # A stop that came while it was being started had no process to signal.
        if self._stopping.is_set():
            self._signal(self.part.stop_signal)
        code = await self._process.wait()
        kill_group(self._process.pid)
        self._home.pid_file(self.part.name).unlink(missing_ok=True)
        return f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


class Supervisor:
    """Runs parts; as a context manager it stops them all at its end."""

    def __init__(self, home: Home, say: Callable[[str], None] = lambda message: None) -> None:
        self._home = home
        self._say = say
        self._keepers: dict[str, _Keeper] = {}

    async def __aenter__(self) -> Supervisor:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop_all()

    async def start(self, part: Part, *, within_seconds: float = 120.0) -> None:
        """Starts the part and waits until it is ready; from then on it is kept running.

        Raises CommandError, with the end of its log, when it dies again and again or takes too long.
        """
        keeper = self._keepers[part.name] = _Keeper(part, self._home, self._say)
        try:
            async with asyncio.timeout(within_seconds):
                while not await _is_ready(part):
                    if keeper.failures >= _FAILED_STARTS:
                        raise CommandError(self._describe(part, keeper.reason))
                    await asyncio.sleep(_READY_POLL_SECONDS)
        except TimeoutError:
            reason = f"is not ready after {within_seconds:.0f} s"
            raise CommandError(self._describe(part, reason)) from None

    async def stop(self, names: Iterable[str]) -> None:
        """Stops these parts at once, each within its own time."""
        keepers = [self._keepers[name] for name in names if name in self._keepers]
        await asyncio.gather(*(keeper.stop(keeper.part.stop_seconds) for keeper in keepers))

    async def stop_all(self) -> None:
        await self.stop(list(self._keepers))

    def kill(self) -> None:
        """Kills everything without waiting."""
        for keeper in self._keepers.values():
            keeper.kill()

    def _describe(self, part: Part, reason: str) -> str:
        last = last_line(self._home, part.name)
        log = self._home.log_file(part.name)
        return f"{part.name} {reason}; its log {log} ends: {last}" if last else f"{part.name} {reason}"


async def _is_ready(part: Part) -> bool:
    try:
        return await part.ready()
    except Exception:  # What a half-started server answers is not foreseeable; time decides.
        return False
