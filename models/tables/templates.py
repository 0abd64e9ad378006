"""Templates by key, locale and version; one row per channel of a version."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class NotificationTemplate(Table):
    """The parts of one channel in one version. Versions are never changed; the highest published one is used."""

    __tablename__ = "notification_templates"

    key: Mapped[str] = mapped_column(primary_key=True)
    locale: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    channel: Mapped[str] = mapped_column(primary_key=True)
    parts: Mapped[dict[str, str]]
    category: Mapped[str | None]
    #: Names that the data must have, as declared by the author or found in the parts.
    variables: Mapped[list[str]]
    created_by: Mapped[str]
    created_at: Mapped[datetime]
    #: None while it is a draft.
    published_at: Mapped[datetime | None]
