"""Bulk statements: many rows as one array a column, so that a batch costs one round trip and one plan."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def given(alias: str, columns: Mapping[str, str]) -> str:
    """`unnest(...)` over bind parameters named like the columns: `given("g", {"id": "uuid"})`."""
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in columns.items())
    return f"unnest({arrays}) AS {alias}({', '.join(columns)})"


def arrays(rows: Sequence[Any], columns: Iterable[str]) -> dict[str, list[Any]]:
    """The bind parameters of `given`: an attribute of all rows as one list."""
    return {name: [getattr(row, name) for row in rows] for name in columns}
