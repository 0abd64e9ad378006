"""How much of each category was sent, and whose bulk is held back."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class CategoryPause(Table):
    """The last time that too much of a category's bulk came back, and what was found then."""

    __tablename__ = "category_pauses"

    category: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    paused_at: Mapped[datetime]
    #: Messages of the window that a provider took or refused as dead, and how many of them came back.
    sent: Mapped[int]
    bounced: Mapped[int]
    #: None while it is held back.
    resumed_at: Mapped[datetime | None]
    resumed_by: Mapped[str | None]


class CategorySends(Table):
    """Messages of a category that a provider took or refused as dead, since the count before.

    Counted by one process at a time; the newest `counted_at` of all says from where the next one counts.
    """

    __tablename__ = "category_sends"

    counted_at: Mapped[datetime] = mapped_column(primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    sent: Mapped[int]
