"""Replays of dead letters: what somebody asked for, and how far it is."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import BigInteger, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class DeadLetterReplay(Table):
    """One replay. Its letters are taken in the order of the dead-letter topic; the cursor is the last one."""

    __tablename__ = "dead_letter_replays"
    __table_args__ = (
        Index(None, "created_at", "id"),
        Index("ix_dead_letter_replays_open", "created_at", postgresql_where=text("finished_at IS NULL")),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    who: Mapped[str]
    reason: Mapped[str]
    #: Ids or filters, as `Wanted` has them.
    wanted: Mapped[dict[str, Any]]
    #: Letters a second at most.
    rate: Mapped[int]
    #: Whether letters that were replayed too often before are replayed too.
    force: Mapped[bool]
    #: Who does it: the workers, or the command that asked.
    runner: Mapped[str]
    state: Mapped[str]
    #: Letters that the index had when it was asked for.
    matched: Mapped[int]
    replayed: Mapped[int] = mapped_column(default=0, server_default="0")
    #: How many were not, by why.
    skipped: Mapped[dict[str, Any]] = mapped_column(server_default="{}")
    cursor_partition: Mapped[int] = mapped_column(default=-1, server_default="-1")
    cursor_offset: Mapped[int] = mapped_column(BigInteger, default=-1, server_default="-1")
    #: Not before then, so that the rate holds whichever process goes on with it.
    next_at: Mapped[datetime] = mapped_column(server_default=func.now())
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    updated_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
