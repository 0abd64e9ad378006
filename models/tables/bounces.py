"""Messages that came back."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class BounceRecord(Table):
    """One message that came back from one address, once however often a vendor tells it."""

    __tablename__ = "bounce_records"
    __table_args__ = (
        Index(None, "occurred_at", "id"),
        Index(None, "address", "occurred_at"),
        Index(None, "id", unique=True),
    )

    #: The vendor's event, or the attempt that was refused.
    event_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[UUID] = mapped_column(server_default=text("gen_random_uuid()"))
    channel: Mapped[str]
    #: As `models.addresses.listed_as` writes it.
    address: Mapped[str]
    #: hard or soft.
    kind: Mapped[str]
    #: A word from the vendor's vocabulary, as in `5.1.1`.
    reason: Mapped[str | None]
    #: None where nobody knows which message it was.
    category: Mapped[str | None]
    delivery_id: Mapped[UUID | None]
    occurred_at: Mapped[datetime]
    #: A soft one that counts towards the threshold no more: a message arrived since, or an operator let it go.
    is_over: Mapped[bool] = mapped_column(server_default="false")
