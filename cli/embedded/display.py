"""What `comms up` shows while it starts: live lines on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class Display:
    """Says how each part gets on; `say` is also kept in a log."""

    def __init__(self, log: Path, console: Console | None = None) -> None:
        self.console = console or Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._log = log
        self._progress: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._begun: dict[str, float] = {}

    @contextmanager
    def live(self) -> Iterator[None]:
        """For its time, lines that change in place, where there is a terminal."""
        if not self.console.is_terminal:
            yield
            return
        columns = (SpinnerColumn(finished_text="[green]✓"), TextColumn("{task.description}"))
        with Progress(*columns, TimeElapsedColumn(), console=self.console) as progress:
            self._progress = progress
            try:
                yield
            finally:
                self._progress = None

    def begin(self, name: str, doing: str = "starting") -> None:
        self._begun[name] = time.monotonic()
        if self._progress:
            self._tasks[name] = self._progress.add_task(f"{name:<10} {doing}", total=1)
        else:
            self._print(f"{name}: {doing}")

    def update(self, name: str, doing: str) -> None:
        if self._progress:
            self._progress.update(self._tasks[name], description=f"{name:<10} {doing}")

    def done(self, name: str, what: str = "ready") -> None:
        if self._progress:
            self._progress.update(self._tasks[name], description=f"{name:<10} {what}", completed=1)
        else:
            self._print(f"{name}: {what} ({time.monotonic() - self._begun[name]:.1f} s)")

    def say(self, message: str) -> None:
        """One line, on the screen and in the log."""
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        with self._log.open("a") as log:
            log.write(f"{stamp} {message}\n")
        self._print(message)

    def lines(self, rows: list[tuple[str, str]]) -> None:
        """A small table, without a border so that its values can be copied."""
        width = max(len(label) for label, _ in rows)
        for label, value in rows:
            self._print(f"{label:<{width}}  {value}")

    def _print(self, text: str) -> None:
        self.console.print(text, markup=False)
