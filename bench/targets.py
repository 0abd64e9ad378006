"""What a benchmark is held to, and its one line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """A bound of one figure. `aim` is where it would be good, and decides nothing."""

    figure: str
    at_least: float | None = None
    at_most: float | None = None
    aim: float | None = None

    def is_met(self, figures: dict[str, Any]) -> bool:
        """Whether the figure is there and within its bound."""
        value = figures.get(self.figure)
        if value is None:
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        bound = f">= {self.at_least:g}" if self.at_least is not None else f"<= {self.at_most:g}"
        return bound if self.aim is None else f"{bound} (aim {self.aim:g})"


def line(bench: str, figures: dict[str, Any], *targets: Target) -> dict[str, Any]:
    """The result of a benchmark: its figures, its targets, whether it met them."""
    return {
        "bench": bench,
        **figures,
        "targets": {target.figure: str(target) for target in targets},
        "ok": all(target.is_met(figures) for target in targets),
    }
