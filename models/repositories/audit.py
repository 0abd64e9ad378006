"""The audit log: who did what, and why."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.ids import fresh


class Act(StrEnum):
    """What an operator did."""

    REPLAY = "dead_letters_replayed"
    EXPORT = "dead_letters_exported"
    LOOK = "dead_letter_content_shown"
    SUPPRESS = "suppression_added"
    LIFT = "suppression_removed"
    IMPORT = "suppressions_imported"
    LIST = "suppressions_exported"
    RESUME = "category_resumed"


_ADD = text(
    """
    INSERT INTO audit_log (id, at, who, action, reason, details)
    VALUES (:id, clock_timestamp(), :who, :action, :reason, CAST(:details AS jsonb))
    """
)


async def record(connection: AsyncConnection, *, who: str, act: Act, reason: str, details: Mapping[str, Any]) -> None:
    """Writes an act down. `details` holds ids, filters and counts, never content."""
    values = {"id": fresh(), "who": who, "action": act.value, "reason": reason}
    await connection.execute(_ADD, {**values, "details": orjson.dumps(details, default=str).decode()})
