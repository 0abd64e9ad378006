"""A circuit breaker: who asks a server that has just failed is told so at once, instead of waiting for it too."""

from __future__ import annotations

import time
from collections.abc import Callable


class Circuit:
    """Whether it is worth asking a server now.

    After `failures` in a row nobody asks for `rest_seconds`; then one caller may, and the others wait no longer than
    `probe_seconds` for what that one finds. The first success lets all in again.

    A crowd that waited for the same hitch counts as one failure: busy is not away.
    """

    def __init__(
        self,
        *,
        failures: int = 2,
        rest_seconds: float = 0.5,
        probe_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most_failures = failures
        self._rest_seconds = rest_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._failures = 0
        self._failed_at = float("-inf")
        self._shut_until = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether it is shut, but for probes."""
        return self._failures >= self._most_failures

    def lets_pass(self) -> bool:
        """Whether the caller may ask; one who may while the server fails is the probe."""
        if not self.is_failing:
            return True
        now = self._clock()
        if now < self._shut_until:
            return False
        self._shut_until = now + self._probe_seconds
        return True

    def now(self) -> float:
        """The moment, for `failed`."""
        return self._clock()

    def failed(self, since: float) -> None:
        """The server did not answer one who asked at `since`."""
        if since >= self._failed_at:
            self._failures += 1
            self._failed_at = self._clock()
        if self.is_failing:
            self._shut_until = self._clock() + self._rest_seconds

    def worked(self) -> None:
        """The server answered."""
        self._failures = 0
