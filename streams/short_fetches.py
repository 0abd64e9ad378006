"""Keeps a fetch from waiting at the broker for quiet partitions while busy ones need the next.

aiokafka has one fetch at a time under way to a broker. Records that nobody has taken within 100 ms, because a lane is
full, are left out of the next one; if all other partitions are quiet, it waits its full time there (Faust: 1.5 s), and
the busy ones stand still although their records were taken long ago. Seen as the last 900 of 20,000 notifications that
came a second late; one busy partition among quiet ones would stop so again and again.

This reaches into aiokafka (pinned; `tests/unit/test_short_fetches.py` guards it).
"""

from __future__ import annotations

from typing import Any

from aiokafka.consumer import consumer
from aiokafka.consumer.fetcher import Fetcher

#: How long a fetch may wait that leaves partitions out.
SHORT_WAIT_MS = 50


class ShortFetches(Fetcher):  # type: ignore[misc]
    """Waits briefly while records of some partitions are still to be taken."""

    def __init__(self, *arguments: Any, fetch_max_wait_ms: int = 500, **options: Any) -> None:
        self._long_wait_ms = fetch_max_wait_ms
        super().__init__(*arguments, fetch_max_wait_ms=fetch_max_wait_ms, **options)

    def _get_actions_per_node(self, assignment: Any) -> Any:
        leaves_out = any(partition in self._records for partition in assignment.tps)
        self._fetch_max_wait_ms = SHORT_WAIT_MS if leaves_out else self._long_wait_ms
        return super()._get_actions_per_node(assignment)


def fetch_shortly() -> None:
    """From now on, for every consumer of this process."""
    consumer.Fetcher = ShortFetches
