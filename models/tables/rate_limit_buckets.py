"""Limits: their definitions, and how full their buckets were when somebody looked last."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.orm import Mapped, mapped_column

from models.base import Table


class RateLimitBucket(Table):
    """A limit. The buckets themselves are in Redis; the sample is for people."""

    __tablename__ = "rate_limit_buckets"

    #: user, channel, provider
    scope: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    permits: Mapped[int]
    per_seconds: Mapped[int]
    burst: Mapped[int]
    #: Of the shared buckets only: a user limit has one for each person.
    tokens: Mapped[float | None]
    sampled_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
