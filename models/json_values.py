"""Strict values for messages from outside: what passes can be stored, rendered and serialised again."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator

MAX_DEPTH = 32
#: Largest integers that JSON consumers agree on beyond doubt are 2**53; 64 bits is what our own encoder takes.
_MAX_INTEGER = 2**63 - 1

T = TypeVar("T")


def _clean(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not contain NUL characters")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must not contain lone surrogates") from None
    return value


def _not_null(value: T) -> T:
    if value is None:
        raise ValueError("must not be null; leave it out instead")
    return value


def _walk(values: Collection[Any], texts: list[str], *, levels: int) -> None:
    """Checks values and all that is in them, down to so many levels; gathers their texts and keys."""
    if values and not levels:
        raise ValueError(f"must not nest deeper than {MAX_DEPTH} levels")
    for value in values:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            texts += value
            _walk(value.values(), texts, levels=levels - 1)
        elif isinstance(value, list):
            _walk(value, texts, levels=levels - 1)
        elif isinstance(value, float):
            if not math.isfinite(value):
                raise ValueError("must not contain NaN or infinite numbers")
        elif isinstance(value, int) and abs(value) > _MAX_INTEGER:
            raise ValueError("must not contain integers beyond 64 bits")


def _checked(value: dict[str, Any]) -> dict[str, Any]:
    texts: list[str] = []
    _walk((value,), texts, levels=MAX_DEPTH)
    _clean("".join(texts))  # at once: a character is wrong in all of them where it is in one
    return value


#: Text that Postgres, JSON and every provider can carry.
Text = Annotated[str, AfterValidator(_clean)]
#: An object of any JSON values, bounded in depth.
JsonObject = Annotated[dict[str, Any], AfterValidator(_checked)]
#: A field that may be left out, but not sent as null.
Maybe = Annotated[T | None, AfterValidator(_not_null)]
