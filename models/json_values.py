"""Strict values for messages from outside: what passes can be stored, rendered and serialised again."""

from __future__ import annotations

import math
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

MAX_DEPTH = 32
#: Largest integers that JSON consumers agree on beyond doubt are 2**53; 64 bits is what our own encoder takes.
_MAX_INTEGER = 2**63 - 1

T = TypeVar("T")


def _clean(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL characters")
    if any("\ud800" <= character <= "\udfff" for character in value) if not value.isascii() else False:
        raise ValueError("must not contain lone surrogates")
    return value


def _not_null(value: T) -> T:
    if value is None:
        raise ValueError("must not be null; leave it out instead")
    return value


def _check(value: Any) -> None:
    """Walks a decoded JSON value without recursion."""
    level = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                for key in item:
                    _clean(key)
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str):
                _clean(item)
            elif isinstance(item, float) and not math.isfinite(item):
                raise ValueError("must not contain NaN or infinite numbers")
            elif isinstance(item, int) and abs(item) > _MAX_INTEGER:
                raise ValueError("must not contain integers beyond 64 bits")
        if not below:
            return
        level = below
    raise ValueError(f"must not nest deeper than {MAX_DEPTH} levels")


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    _check(value)
    return value


#: Text that Postgres, JSON and every provider can carry.
Text = Annotated[str, AfterValidator(_clean)]
#: An object of any JSON values, bounded in depth.
JsonObject = Annotated[dict[str, Any], AfterValidator(_checked)]
#: A field that may be left out, but not sent as null.
Maybe = Annotated[T | None, AfterValidator(_not_null)]
