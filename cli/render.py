"""What the commands print: tables for people, plain lines for pipes, JSON for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any

#: Colours of statuses; the rest is plain.
_COLOURS = {
    "sent": "green",
    "delivered": "green",
    "opened": "green",
    "clicked": "green",
    "failed": "red",
    "bounced": "red",
    "complained": "red",
    "expired": "yellow",
    "suppressed": "yellow",
    "cancelled": "yellow",
    "retrying": "yellow",
    "throttled": "yellow",
    # of queues
    "flowing": "green",
    "late": "yellow",
    "holding": "red",
    "unattended": "red",
    # of providers
    "closed": "green",
    "degraded": "yellow",
    "unreachable": "red",
    "broken": "red",
}


def safe(value: object) -> str:
    """The text with control characters written out, so that no stored byte can steer a terminal."""
    text = "" if value is None else str(value)
    return "".join(character if character.isprintable() else ascii(character)[1:-1] for character in text)


def as_json(document: object, *, line: bool = False) -> str:
    """JSON for programs: indented, or one line where documents follow each other."""
    if line:
        return json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=str)
    return json.dumps(document, ensure_ascii=False, indent=2, default=str)


class Output:
    """Where a command prints. Colours and boxes only where a person looks."""

    def __init__(self, file: IO[str] | None = None) -> None:
        self._file = file or sys.stdout
        self.is_terminal = self._file.isatty()

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """One line, at once: a reader of a pipe sees it when it happens."""
        if style is None or not self.is_terminal:
            print(text, file=self._file, flush=True)
            return
        self._console().print(text, style=style, markup=False, soft_wrap=True)

    def json(self, document: object, *, line: bool = False) -> None:
        """A document for programs."""
        print(as_json(document, line=line), file=self._file, flush=True)

    def facts(self, rows: Mapping[str, object]) -> None:
        """Names and values below each other; those without value are left out."""
        shown = {name: safe(value) for name, value in rows.items() if value not in (None, "")}
        width = max(map(len, shown), default=0)
        for name, value in shown.items():
            self.line(f"{name:<{width}}  {value}", style=_COLOURS.get(value))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, right: Sequence[str] = ()) -> None:
        """A table; `right` names the columns of numbers."""
        cells = [[safe(value) for value in row] for row in rows]
        if self.is_terminal:
            self._console().print(_rich_table(columns, cells, right))
        else:
            self._plain_table(columns, cells, right)

    @contextmanager
    def screen(self) -> Iterator[Callable[[Callable[[], None]], None]]:
        """A terminal's whole screen, given back at the end; what it yields prints anew in place of what was there."""
        console = self._console()

        def fresh(prints: Callable[[], None]) -> None:
            console.clear()
            prints()

        with console.screen(hide_cursor=True):
            yield fresh

    def _plain_table(self, columns: Sequence[str], rows: list[list[str]], right: Sequence[str]) -> None:
        widths = [max(len(row[place]) for row in [list(columns), *rows]) for place in range(len(columns))]
        for row in [list(columns), *rows]:
            padded = (
                value.rjust(width) if name in right else value.ljust(width)
                for name, value, width in zip(columns, row, widths, strict=True)
            )
            self.line("  ".join(padded).rstrip())

    def _console(self) -> Any:
        from rich.console import Console

        return Console(file=self._file, highlight=False)


def style_of(status: str) -> str | None:
    """The colour of a status, if it has one."""
    return _COLOURS.get(status)


def _rich_table(columns: Sequence[str], rows: list[list[str]], right: Sequence[str]) -> Any:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(value, style=_COLOURS.get(value, "")) for value in row))
    return table
