"""Suppressions as lines of CSV or NDJSON, in and out, without ever holding all of them."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from typing import Protocol

import orjson
from pydantic import ValidationError

from api.suppressions import SuppressionBody
from models.ids import rfc3339
from models.repositories.suppressions import StoredSuppression
from models.requests import refusals

#: A record with the longest of everything has less.
MAX_LINE_BYTES = 16 * 1024
COLUMNS = ("address", "channel", "category", "reason", "source", "note", "created_at")
#: What a spreadsheet takes for the begin of a formula (OWASP ASVS 1.2.10); such a cell gets an apostrophe before it.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_QUOTE = "'"


class BadLine(Exception):
    """A line that can't be read. Its text names no value."""


class BadHeader(BadLine):
    """The first line doesn't say what the others hold."""


class ReadsLines(Protocol):
    """What makes records of lines."""

    def read(self, line: bytes) -> SuppressionBody | None:
        """The record of a line; None for a line that is none. Raises BadLine, or BadHeader."""


async def lines_of(chunks: AsyncIterator[bytes], *, csv_quotes: bool) -> AsyncIterator[bytes | None]:
    """Cuts a stream into lines; None for one that is too long. In CSV a quoted cell may hold line breaks."""
    rest, is_skipping = b"", False
    async for chunk in chunks:
        rest += chunk
        start = 0
        while (end := _end(rest, start, csv_quotes=csv_quotes)) >= 0:
            if not is_skipping:
                yield rest[start:end] if end - start <= MAX_LINE_BYTES else None
            start, is_skipping = end + 1, False
        rest = rest[start:]
        if len(rest) > MAX_LINE_BYTES:
            if not is_skipping:
                yield None
            rest, is_skipping = b"", True
    if rest and not is_skipping:
        yield rest


def _end(text: bytes, start: int, *, csv_quotes: bool) -> int:
    """Where the line that begins at `start` ends; -1 where that has not come yet."""
    begin, quotes = start, 0
    while (end := text.find(b"\n", begin)) >= 0:
        quotes += text.count(b'"', begin, end) if csv_quotes else 0
        if quotes % 2 == 0 or end - start > MAX_LINE_BYTES:
            return end
        begin = end + 1
    return -1


class JsonLines:
    """NDJSON: an object a line."""

    def read(self, line: bytes) -> SuppressionBody | None:
        """The record of a line."""
        return _parsed(line) if line.strip() else None


class CsvLines:
    """CSV with a header that names the columns, in any order; only `address` is needed. Empty cells are absent."""

    def __init__(self) -> None:
        self._names: list[str] | None = None

    def read(self, line: bytes) -> SuppressionBody | None:
        """The record of a line; None for the header."""
        cells = _cells(line)
        if not any(cells):
            return None
        if self._names is None:
            self._names = _names_of(cells)
            return None
        if len(cells) > len(self._names):
            raise BadLine("has more cells than the header")
        found = {name: _unescaped(cell) for name, cell in zip(self._names, cells, strict=False) if cell}
        found.pop("source", None)  # where it came from once; now it comes from here
        return _parsed(orjson.dumps(found))


def _names_of(header: Sequence[str]) -> list[str]:
    names = [cell.strip().lower() for cell in header]
    if "address" not in names or not set(COLUMNS).issuperset(names) or len(set(names)) != len(names):
        raise BadHeader(f"must name columns of {', '.join(COLUMNS)}, and address among them")
    return names


def _cells(line: bytes) -> list[str]:
    try:
        rows = list(csv.reader(io.StringIO(line.decode("utf-8-sig"), newline=""), strict=True))
    except UnicodeDecodeError:
        raise BadLine("is not UTF-8") from None
    except csv.Error:
        raise BadLine("is not CSV") from None
    return rows[0] if rows else []


def _parsed(line: bytes) -> SuppressionBody:
    try:
        return SuppressionBody.model_validate_json(line)
    except ValidationError as error:
        raise BadLine("; ".join(f"{one.field} {one.reason}".strip() for one in refusals(error)[:3])) from None


def _escaped(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula; one that begins like an escaped one is escaped too."""
    bare = cell.lstrip(_QUOTE)
    return _QUOTE + cell if bare.startswith(_FORMULA) else cell


def _unescaped(cell: str) -> str:
    """The cell before it was escaped."""
    is_escaped = cell.startswith(_QUOTE) and cell.lstrip(_QUOTE).startswith(_FORMULA)
    return cell[1:] if is_escaped else cell


def csv_header() -> str:
    """The first line."""
    return _written([dict.fromkeys(COLUMNS, "") | {name: name for name in COLUMNS}])


def csv_lines(entries: Iterable[StoredSuppression]) -> str:
    """Entries as lines of CSV."""
    return _written(_row(entry) for entry in entries)


def _row(entry: StoredSuppression) -> Mapping[str, str]:
    return {
        "address": entry.address,
        "channel": entry.channel,
        "category": entry.category,
        "reason": entry.reason,
        "source": entry.source,
        "note": entry.note or "",
        "created_at": rfc3339(entry.created_at),
    }


def _written(rows: Iterable[Mapping[str, str]]) -> str:
    made = io.StringIO(newline="")
    writer = csv.DictWriter(made, COLUMNS, lineterminator="\r\n")
    writer.writerows(_safe(rows))
    return made.getvalue()


def _safe(rows: Iterable[Mapping[str, str]]) -> Iterator[dict[str, str]]:
    for row in rows:
        yield {name: _escaped(cell) for name, cell in row.items()}
