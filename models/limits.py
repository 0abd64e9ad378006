"""Limits as they are defined: so many permits in so many seconds, for whom."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

#: The target of a user limit that holds for every category without one of its own.
ANY_CATEGORY = "*"


class Scope(StrEnum):
    """What a limit counts."""

    #: What one person gets of a category; the target is the category's key, or ANY_CATEGORY.
    USER = "user"
    #: What a channel sends, over all its providers; the target is the channel.
    CHANNEL = "channel"
    #: What a provider is asked to send; the target is its name.
    PROVIDER = "provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """A definition. In any `t` seconds no more than `burst + t * permits / per_seconds` pass."""

    scope: Scope
    target: str
    permits: int
    per_seconds: int
    #: How many may pass at once after a quiet time.
    burst: int
    #: By the database's clock.
    created_at: datetime
    updated_at: datetime

    @property
    def per_second(self) -> float:
        """The rate, in permits a second."""
        return self.permits / self.per_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How full the bucket of a channel or a provider was."""

    scope: Scope
    target: str
    tokens: float
    sampled_at: datetime
