"""Answers as JSON: encoded once, by hand, without a model in between."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
from starlette.responses import Response

from models.ids import rfc3339


def _as_text(value: Any) -> str:
    if isinstance(value, datetime):
        return rfc3339(value)
    if isinstance(value, UUID):  # The database driver's own kind, that the encoder doesn't know.
        return str(value)
    raise TypeError(type(value).__name__)


def reply(content: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """A JSON answer; times are RFC 3339 in UTC with milliseconds."""
    return Response(
        # NON_STR_KEYS: channels are keys of a kind that is text to Python, and none to the encoder.
        orjson.dumps(content, default=_as_text, option=orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_NON_STR_KEYS),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def without_nulls(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that have a value."""
    return {name: value for name, value in fields.items() if value is not None}
