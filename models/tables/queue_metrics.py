"""Samples of what waits where."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import BigInteger, Index, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class QueueMetric(Table):
    """One queue at one moment. All queues of a sample share its `sampled_at`."""

    __tablename__ = "queue_metrics"
    __table_args__ = (
        Index(None, "sampled_at"),
        Index("ix_queue_metrics_fine", "sampled_at", postgresql_where=text("NOT is_minutely")),
    )

    lane: Mapped[str] = mapped_column(primary_key=True)
    #: By the clock of the database: processes take turns at sampling.
    sampled_at: Mapped[datetime] = mapped_column(primary_key=True)
    #: Records, or rows, that wait.
    lag: Mapped[int] = mapped_column(BigInteger)
    #: All that ever came in and went out; only their differences mean something.
    in_total: Mapped[int | None] = mapped_column(BigInteger)
    out_total: Mapped[int | None] = mapped_column(BigInteger)
    in_per_second: Mapped[float | None]
    out_per_second: Mapped[float | None]
    oldest_age_seconds: Mapped[float | None]
    #: Members of the consumer group; None where none reads it.
    members: Mapped[int | None]
    #: The first sample of its minute: kept when the others are thinned out.
    is_minutely: Mapped[bool]
