"""`comms queues`: what waits where."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import CommandError
from cli.render import Output

if TYPE_CHECKING:
    from cli.queues import Look

_EVERY_SECONDS = 2.0

#: A minute, an hour, a day.
_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"))


def queues(
    lanes: Annotated[
        list[str] | None, typer.Argument(metavar="[LANE]...", help="Only these; patterns as 'send-*' work.")
    ] = None,
    *,
    busy: Annotated[bool, typer.Option("--busy", help="Leave out the idle ones.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and show it every 2 seconds; Ctrl-C ends.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch one line for each look.")] = False,
) -> None:
    """Show what waits in every lane, and whether it moves.

    Where no worker takes samples, Kafka is asked once, without rates. States: idle; flowing; waiting (on purpose: for
    its time, or for an operator); late (it moves, but its head has waited for too long); holding (it has readers, and
    nothing leaves it); unattended (nobody reads it).
    """
    with contextlib.suppress(KeyboardInterrupt), _screen(watch and not json) as show:
        while True:
            look = asyncio.run(_look(lanes or (), busy=busy, keep_on=watch))
            if json:
                Output().json(look.document(), line=watch)
            else:
                show(look)
            if not watch:
                return
            time.sleep(_EVERY_SECONDS)


async def _look(lanes: Sequence[str], *, busy: bool, keep_on: bool) -> Look:
    """Raises CommandError where nothing can be told; a watcher is told just that, and goes on."""
    from cli.queues import Look, look
    from models.settings import load_settings

    settings = load_settings()
    try:
        return (await look(settings)).only(lanes, busy=busy)
    except CommandError as error:
        if not keep_on:
            raise
        return Look(samples=(), notes=(str(error),))


@contextlib.contextmanager
def _screen(watch: bool) -> Iterator[Callable[[Look], None]]:
    """Prints a look below the one before, or, for a watching person, in its place."""
    output = Output()
    if not watch or not output.is_terminal:
        yield lambda look: _show(look, output)
        return
    with output.screen() as fresh:
        yield lambda look: fresh(lambda: _show(look, output))


def _show(look: Look, output: Output) -> None:
    output.table(
        ("lane", "state", "lag", "in/s", "out/s", "oldest", "readers"),
        [_row(item) for item in look.items()],
        right=("lag", "in/s", "out/s", "oldest", "readers"),
    )
    for note in look.notes:
        output.line(note, style="yellow")


def _row(item: dict[str, Any]) -> tuple[object, ...]:
    return (
        item["lane"],
        str(item["state"]),
        item["lag"],
        rate(item.get("in_per_second")),
        rate(item.get("out_per_second")),
        age(item.get("oldest_age_seconds")),
        item.get("members"),
    )


def rate(value: float | None) -> str:
    """`0`, `0.4`, `1250`; empty for none."""
    if value is None:
        return ""
    return f"{value:.1f}" if 0 < value < 10 else f"{value:.0f}"


def age(seconds: float | None) -> str:
    """`0.3 s`, `42 s`, `7 min`, `3.5 h`; empty for none."""
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}" if seconds >= 10 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
