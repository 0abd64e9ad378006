"""Where a delivery stands that a dead letter is about."""

from __future__ import annotations

from dataclasses import dataclass

from models.enums import Status


@dataclass(frozen=True, slots=True, kw_only=True)
class Stands:
    """A delivery's row, as far as a replay cares."""

    generation: int
    status: Status
    rank: int
    #: The delivery or its notification, or another one of that.
    is_cancelled: bool
