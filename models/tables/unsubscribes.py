"""Addresses that are not to be written to."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class Unsubscribe(Table):
    """Why nothing of a category, or nothing at all (category ''), goes to an address. It may have several reasons.

    The address comes first in the key: the request lanes ask for whole batches of addresses, whatever the channel.
    """

    __tablename__ = "unsubscribe_lists"
    __table_args__ = (Index(None, "id", unique=True), Index(None, "created_at", "id"))

    #: As `models.addresses.listed_as` writes it.
    address: Mapped[str] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    category: Mapped[str] = mapped_column(primary_key=True, default="", server_default="")
    #: A `SuppressionReason`.
    reason: Mapped[str] = mapped_column(primary_key=True)
    #: Stands for the entry where the address should not be written, as in URLs.
    id: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    #: Where it comes from: api, import, link, provider, send.
    source: Mapped[str] = mapped_column(server_default="unknown")
    note: Mapped[str | None]
    created_at: Mapped[datetime]
