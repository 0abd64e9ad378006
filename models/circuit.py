"""A circuit breaker: who asks a server that has just failed is told so at once, instead of waiting for it too."""

from __future__ import annotations

import time
from collections.abc import Callable


class Circuit:
    """Whether it is worth asking a server now.

    After a failure nobody asks for `rest_seconds`; then one caller may, and the others wait no longer than
    `probe_seconds` for what that one finds. The first success lets all in again.
    """

    def __init__(
        self,
        *,
        rest_seconds: float = 0.5,
        probe_seconds: float = 3.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rest_seconds = rest_seconds
        self._probe_seconds = probe_seconds
        self._clock = clock
        self._is_failing = False
        self._shut_until = 0.0

    @property
    def is_failing(self) -> bool:
        """Whether the last answer that anybody got was none."""
        return self._is_failing

    def lets_pass(self) -> bool:
        """Whether the caller may ask; one who may while the server fails is the probe."""
        if not self._is_failing:
            return True
        now = self._clock()
        if now < self._shut_until:
            return False
        self._shut_until = now + self._probe_seconds
        return True

    def failed(self) -> None:
        """The server did not answer."""
        self._is_failing = True
        self._shut_until = self._clock() + self._rest_seconds

    def worked(self) -> None:
        """The server answered."""
        self._is_failing = False
