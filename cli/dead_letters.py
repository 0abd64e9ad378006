"""Dead letters at the terminal: one of them shown, many of them written to a file."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from sqlalchemy.ext.asyncio import AsyncEngine

from cli import CommandError
from cli.render import as_json
from cli.servers import database, database_engine, letters
from models.errors import Refused
from models.repositories import audit, dead_letter_search
from models.repositories.dead_letter_search import StoredLetter, Wanted
from models.settings import Settings
from streams.letter_view import described, exported, fate, indexed
from streams.letters import LetterReader, Place
from streams.records import Incoming
from streams.replay import foreseen

_BATCH_LETTERS = 200


async def read(settings: Settings, place: Place) -> Incoming:
    """The dead letter's record.

    Raises:
        CommandError: when it isn't there (any more), or the broker doesn't answer.
    """
    found = await _look(settings, place)
    if isinstance(found, CommandError):
        raise found
    return found


async def _look(settings: Settings, place: Place) -> Incoming | CommandError:
    async with letters(settings) as reader:
        record = await reader.one(place)
        if record is not None:
            return record
        try:
            first, end = await reader.held(place.partition)
        except Refused as error:
            return CommandError(error.reason)
    held = f"offsets {first} to {end - 1}" if end > first else "nothing"
    return CommandError(f"no dead letter {place}: partition {place.partition} holds {held}")


async def shown(settings: Settings, place: Place, *, who: str, because: str | None) -> dict[str, Any]:
    """The dead letter, its row in the index, and what replaying it would do.

    Its content only where a reason for that is given; then the look is written down first.
    """
    found = await _look(settings, place)
    record = None if isinstance(found, CommandError) else found
    async with database(settings) as connection:
        row = await dead_letter_search.get(connection, str(place))
        if row is None and isinstance(found, CommandError):
            raise found
        if because is not None:
            details = {"ids": [str(place)]}
            await audit.record(connection, who=who, act=audit.Act.LOOK, reason=because, details=details)
        outlook = await foreseen(connection, row, record)
    told = {} if record is None else described(record, content=because is not None)
    told |= {} if row is None else indexed(row)
    return told | {"is_kept": record is not None, "replay": fate(outlook)}


async def export(settings: Settings, wanted: Wanted, file: IO[str], *, who: str, reason: str) -> int:
    """Writes the letters that are wanted, one JSON document a line; returns how many.

    Raises:
        CommandError: when a server doesn't answer; what was written by then is whole lines.
    """
    count = 0
    async with database_engine(settings) as engine, letters(settings) as reader:
        async with engine.begin() as connection:
            details = {"wanted": wanted.document()}
            await audit.record(connection, who=who, act=audit.Act.EXPORT, reason=reason, details=details)
        async for document in _documents(engine, reader, wanted):
            file.write(as_json(document, line=True) + "\n")
            count += 1
    return count


async def _documents(engine: AsyncEngine, reader: LetterReader, wanted: Wanted) -> AsyncIterator[dict[str, Any]]:
    last = Place(-1, -1)
    while True:
        async with engine.connect() as connection:
            rows = await dead_letter_search.walk(
                connection, wanted, limit=_BATCH_LETTERS, after=(last.partition, last.offset)
            )
        if not rows:
            return
        by_place: Mapping[Place, StoredLetter] = {Place.of(row.id): row for row in rows}
        async for place, record in reader.read(list(by_place)):
            yield exported(by_place[place], record)
        last = max(by_place)


@contextmanager
def written(name: str) -> Iterator[IO[str]]:
    """The file to write to, for its owner's eyes only; `-` is standard output. Whole, or as it was before.

    Raises:
        CommandError: when it can't be written.
    """
    if name == "-":
        yield sys.stdout
        return
    path = Path(name)
    partial = path.with_name(f"{path.name}.part")
    try:
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:  # noqa: PTH123
            yield file
        partial.replace(path)
    except OSError as error:
        raise CommandError(f"{name} can't be written ({error.strerror})") from None
    finally:
        partial.unlink(missing_ok=True)
