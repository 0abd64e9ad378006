"""`comms dlq replay`: counts, asks, and does it, batch by batch, telling how far it is."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from uuid import UUID

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from cli import CommandError
from cli.render import Output
from cli.servers import database, database_engine, letters, publisher
from models.errors import Unavailable
from models.repositories import replays
from models.repositories.dead_letter_search import Wanted
from models.repositories.replays import Runner, State, StoredReplay
from models.settings import Settings
from streams.domain.replays import IN_WORDS, WhyNot
from streams.replay import Replayer, Summary, ask, summary


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the operator wants done, and why."""

    wanted: Wanted
    who: str
    reason: str
    rate: int
    force: bool
    matched: int


class Stopped(CommandError):
    """Ended before it was done; what is left can be replayed by the same command."""


async def counted(settings: Settings, wanted: Wanted) -> Summary:
    """What a replay would find. Raises CommandError."""
    async with database(settings) as connection:
        return await summary(connection, wanted)


def as_document(found: Summary, *, force: bool) -> dict[str, Any]:
    """The counts for programs."""
    return {
        "matched": found.matched,
        "to_replay": found.to_replay(force=force),
        "skipped": found.skipped(force=force),
        "groups": [
            {
                "error_class": group.error_class,
                "channel": group.channel,
                "topic": group.source_topic,
                "letters": group.letters,
            }
            for group in found.groups
        ],
    }


def show_counts(found: Summary, output: Output, *, force: bool) -> None:
    """The counts for people."""
    rows = [(group.error_class, group.channel, group.source_topic, group.letters) for group in found.groups]
    output.table(("error", "channel", "topic", "letters"), rows, right=("letters",))
    output.line()
    output.line(f"{found.matched} match, {found.to_replay(force=force)} to replay")
    show_skipped(found.skipped(force=force), output)


def show_skipped(skipped: Any, output: Output) -> None:
    """How many are not replayed, and why not."""
    for why, count in sorted(skipped.items()):
        told = IN_WORDS[WhyNot(why)] if why in set(WhyNot) else "can't be replayed, as was found before"
        output.line(f"{count} not: {told}")


async def replay(settings: Settings, order: Order) -> StoredReplay:
    """Does a replay to its end.

    Raises:
        Stopped: when a server went away, or the operator had enough.
        CommandError: when a server doesn't answer at first.
    """
    _log_to_stderr()
    async with publisher(settings) as producer, letters(settings) as reader, database_engine(settings) as engine:
        async with engine.begin() as connection:
            replay_id = await ask(
                connection,
                order.wanted,
                who=order.who,
                reason=order.reason,
                rate=order.rate,
                force=order.force,
                runner=Runner.COMMAND,
                matched=order.matched,
            )
        replayer = Replayer(engine=engine, publisher=producer, reader=reader)
        try:
            return await _followed(replayer, replay_id, order.matched)
        except (asyncio.CancelledError, Unavailable, OSError) as error:
            raise await _stopped(engine, replay_id, error) from None


async def _followed(replayer: Replayer, replay_id: UUID, matched: int) -> StoredReplay:
    last: StoredReplay | None = None
    with _bar(matched) as bar:
        async for last in replayer.run(replay_id, sleep=asyncio.sleep):
            bar.show(last.replayed + sum(last.skipped.values()))
    assert last is not None, "a replay has an end"
    return last


async def _stopped(engine: AsyncEngine, replay_id: UUID, error: BaseException) -> Stopped:
    why = str(error) if isinstance(error, Unavailable) else "interrupted"
    try:
        async with engine.begin() as connection:
            await replays.end(connection, replay_id, State.STOPPED)
            found = await replays.get(connection, replay_id)
    except Exception:
        found = None
    how_far = "" if found is None else f" after {found.replayed} of {found.matched}"
    return Stopped(f"stopped{how_far} ({why}); the same command goes on with the rest")


class _Shows(Protocol):
    def show(self, done: int) -> None:
        """How many letters are done."""


class _Nothing:
    def show(self, done: int) -> None:
        """Nothing: nobody looks."""


class _Bar:
    def __init__(self, progress: Any, task: Any) -> None:
        self._progress = progress
        self._task = task

    def show(self, done: int) -> None:
        """Moves the bar."""
        self._progress.update(self._task, completed=done)


@contextmanager
def _bar(total: int) -> Iterator[_Shows]:
    """A progress bar where a person looks."""
    if not sys.stderr.isatty():
        yield _Nothing()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = ("replaying", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        yield _Bar(progress, progress.add_task("replay", total=total))


def _log_to_stderr() -> None:
    """Warnings only: what was done is what the command prints."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
    )
