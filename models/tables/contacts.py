"""Where people can be reached."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class Contact(Table):
    """A person's addresses. A removed contact keeps its row, empty, so that an older record can't bring it back."""

    __tablename__ = "contacts"

    user_id: Mapped[str] = mapped_column(primary_key=True)
    email: Mapped[str | None]
    phone: Mapped[str | None]
    name: Mapped[str | None]
    locale: Mapped[str | None]
    timezone: Mapped[str | None]
    #: As the writer says; older never overwrites newer.
    updated_at: Mapped[datetime]
    removed_at: Mapped[datetime | None]


class Device(Table):
    """A push token. It belongs to one person: the last who registered it."""

    __tablename__ = "devices"
    __table_args__ = (Index(None, "user_id"),)

    platform: Mapped[str] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str]
    kind: Mapped[str | None]
    registered_at: Mapped[datetime]
