"""What AWS's events are read with: nothing of them is trusted to have the type that it should. Pure."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from models.provider_events import ProviderEvent

#: A vendor's word may be kept when it can't be an address or content.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._:/-]{0,99}")
_HIGHEST = 32767


def event(**fields: Any) -> ProviderEvent:
    """An event of what is known: nothing stands where nothing is."""
    return ProviderEvent(**{name: value for name, value in fields.items() if value is not None})


def word(value: object) -> str | None:
    """A word of the vendor's vocabulary; None for anything that could be more."""
    return value if isinstance(value, str) and _WORD.fullmatch(value) else None


def words(source: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Those of the fields that may be kept: words, numbers and truth values."""
    found: dict[str, Any] = {}
    for name in names:
        value = source.get(name)
        if isinstance(value, bool | int) or (isinstance(value, str) and word(value)):
            found[name] = value
    return found


def section(source: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """An object within; empty where it isn't one."""
    value = source.get(name)
    return value if isinstance(value, dict) else {}


def moment(value: object, *, otherwise: datetime) -> datetime:
    """An RFC 3339 time, or one in milliseconds since 1970."""
    try:
        if isinstance(value, str):
            found = datetime.fromisoformat(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found = datetime.fromtimestamp(value / 1000, UTC)
        else:
            return otherwise
    except (ValueError, OverflowError, OSError):
        return otherwise
    return found.astimezone(UTC) if found.tzinfo is not None and 1970 <= found.year <= 9998 else otherwise


def whose(tags: Mapping[str, Any]) -> dict[str, Any]:
    """The ids that `send` put into a message's tags."""
    found: dict[str, Any] = {}
    for name in ("delivery_id", "notification_id"):
        found[name] = _uuid(_first(tags.get(name)))
    generation, attempt = _number(_first(tags.get("generation"))), _number(_first(tags.get("attempt")))
    found["generation"] = generation
    found["attempt"] = attempt if attempt else None
    return {name: value for name, value in found.items() if value is not None}


def _first(value: object) -> object:
    return value[0] if isinstance(value, list) and value else value


def _uuid(value: object) -> UUID | None:
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _number(value: object) -> int | None:
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,5}", value):
        return None
    return int(value) if int(value) <= _HIGHEST else None


def digest(*parts: str) -> str:
    """Tells recipients of one event apart without naming them."""
    return hashlib.sha256("\x00".join(parts).encode(errors="replace")).hexdigest()[:20]
