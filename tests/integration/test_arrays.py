"""Bulk parameters: what is the same in all rows goes once, and the statement finds it in each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import NamedTuple

import pytest
from sqlalchemy import text

from models.repositories.arrays import arrays, given
from tests.fixtures.rows import Rows, some_rows
from tests.fixtures.stack import Databases

_COLUMNS = {"number": "integer", "word": "text", "at": "timestamptz"}
_AT = datetime(2026, 11, 24, tzinfo=UTC)


class Row(NamedTuple):
    number: int
    word: str | None = None
    at: datetime | None = None


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


@pytest.mark.parametrize(
    "wanted",
    [
        [],
        [Row(1)],
        [Row(1, "a", _AT)],
        [Row(1, "a"), Row(2, "a"), Row(3, "a")],
        [Row(1, None), Row(2, "a"), Row(3, None)],
        [Row(1, "a"), Row(2, None), Row(3, "a")],
        [Row(1, "a", _AT), Row(2, "b"), Row(3, "a")],
        [Row(7, "a", _AT), Row(7, "a", _AT)],
    ],
)
async def test_each_row_comes_as_it_was_given(rows: Rows, wanted: list[Row]) -> None:
    statement = text(f"SELECT number, word, at FROM {given('g', _COLUMNS)}")
    async with rows.engine.connect() as connection:
        found = await connection.execute(statement, arrays(wanted, _COLUMNS))
        assert [Row(*row) for row in found] == wanted


def test_what_all_rows_share_is_sent_once() -> None:
    assert arrays([Row(5, "a"), Row(5, "a")], _COLUMNS) == {"number": [5, 5], "word": ["a"], "at": [None]}
    assert arrays([Row(1, "a"), Row(2, "b"), Row(3, "a")], _COLUMNS)["word"] == ["a", "b", "a"]
