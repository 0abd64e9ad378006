"""Bulk statements: many rows as one array a column, so that a batch costs one round trip and one plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter
from typing import Any


def given(alias: str, columns: Mapping[str, str]) -> str:
    """Rows from bind parameters named like the columns, each an array: `given("g", {"id": "uuid"})`.

    An array of one element is that column's value in every row.
    """
    unnested = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    values = ", ".join(_value(name, kind) for name, kind in columns.items())
    return f"(SELECT {values} FROM unnest({unnested}) AS whole({', '.join(columns)})) AS {alias}"  # noqa: S608


def _value(name: str, kind: str) -> str:
    array = f"CAST(:{name} AS {kind}[])"
    return f"CASE WHEN cardinality({array}) = 1 THEN ({array})[1] ELSE whole.{name} END AS {name}"


def arrays(rows: Sequence[Any], columns: Iterable[str]) -> dict[str, list[Any]]:
    """The bind parameters of `given`: an attribute of all rows as one list.

    What is the same in all rows goes once: the driver spends most on the number of elements. The first column is always
    whole, and says how many rows there are.
    """
    first, *others = columns
    lists = {name: list(map(attrgetter(name), rows)) for name in (first, *others)}
    return {name: values if name == first else same_once(values) for name, values in lists.items()}


def same_once(values: list[Any]) -> list[Any]:
    """The list, or its first element alone where all are equal."""
    # Mostly the ends tell, and ids, whose comparison is slow, are compared no further.
    if len(values) > 1 and values[0] == values[-1] and values.count(values[0]) == len(values):
        return values[:1]
    return values
