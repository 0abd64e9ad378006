"""Lines of an import and an export: cut, read, escaped and read again, whatever is in them."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.suppression_lines import (
    MAX_LINE_BYTES,
    BadHeader,
    BadLine,
    CsvLines,
    JsonLines,
    csv_header,
    csv_lines,
    lines_of,
)
from models.enums import Channel, SuppressionReason
from models.repositories.suppressions import StoredSuppression

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


async def cut(pieces: Sequence[bytes], *, csv_quotes: bool = False) -> list[bytes | None]:
    async def stream() -> AsyncIterator[bytes]:
        for piece in pieces:
            yield piece

    return [line async for line in lines_of(stream(), csv_quotes=csv_quotes)]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_lines_are_the_same_however_the_stream_is_cut(size: int) -> None:
    content = b'a,"b\nc"\r\n\nd,e\nlast "one'
    pieces = [content[start : start + size] for start in range(0, len(content), size)]
    assert await cut(pieces, csv_quotes=True) == [b'a,"b\nc"\r', b"", b"d,e", b'last "one']
    assert await cut(pieces) == [b'a,"b', b'c"\r', b"", b"d,e", b'last "one']


@pytest.mark.parametrize("csv_quotes", [False, True])
async def test_a_line_without_end_takes_no_memory_and_spoils_no_other(csv_quotes: bool) -> None:
    flood = [b"x" * 1000] * 1000
    assert await cut([b"a\n", *flood, b"y\nb\n"], csv_quotes=csv_quotes) == [b"a", None, b"b"]
    assert await cut([b"a\n", b"x" * (MAX_LINE_BYTES + 1) + b"\nb"], csv_quotes=csv_quotes) == [b"a", None, b"b"]


async def test_a_quote_that_never_closes_ends_somewhere() -> None:
    lines = await cut([b'"' + b"x\n" * 50_000], csv_quotes=True)
    assert lines[0] is None
    assert lines[1] == b"x"


def entry(note: str | None, category: str = "news", address: str = "ada@example.com") -> StoredSuppression:
    return StoredSuppression(
        id=uuid4(),
        channel=Channel.EMAIL if "@" in address else Channel.SMS,
        address=address,
        category=category,
        reason=SuppressionReason.MANUAL,
        source="api",
        note=note,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
    )


notes = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(note=notes | st.builds("{}{}{}".format, st.sampled_from(["", "'", "''"]), st.sampled_from(FORMULA), notes))
def test_no_cell_is_a_formula_and_each_is_read_as_it_was(note: str) -> None:
    written = csv_header() + csv_lines([entry(note), entry(None, address="+4915112345678")])
    rows = list(csv.reader(io.StringIO(written, newline="")))
    assert not [cell for row in rows for cell in row if cell.startswith(FORMULA)]
    reader = CsvLines()
    assert reader.read(csv_header().encode()) is None
    found = reader.read(csv_lines([entry(note)]).encode())
    assert found is not None
    assert (found.note, found.address, found.category) == (note, "ada@example.com", "news")
    phone = reader.read(csv_lines([entry(None, category="", address="+4915112345678")]).encode())
    assert phone is not None
    assert (phone.note, phone.address, phone.category) == (None, "+4915112345678", None)


@pytest.mark.parametrize("header", ["", "note", "address,address", "address,why", "address,"])
def test_a_header_names_what_is_known(header: str) -> None:
    reader = CsvLines()
    if not header:
        assert reader.read(b"") is None
        return
    with pytest.raises(BadHeader):
        reader.read(header.encode())


@pytest.mark.parametrize("line", [b"a@example.com,x,y", b'"a', b"\xff", b"nobody", b"a@example.com,-bad"])
def test_a_bad_line_of_csv_is_told_without_its_words(line: bytes) -> None:
    reader = CsvLines()
    reader.read(b"address,category")
    with pytest.raises(BadLine) as refused:
        reader.read(line)
    assert not isinstance(refused.value, BadHeader)
    assert "nobody" not in str(refused.value)


@pytest.mark.parametrize("line", [b"[]", b"1", b"{", b'{"address": 1}', b'{"address": null}', b"\xff", b'"x"'])
def test_a_bad_line_of_json_is_told(line: bytes) -> None:
    with pytest.raises(BadLine):
        JsonLines().read(line)
