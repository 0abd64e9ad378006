"""One provider of a chain: its health, its slots, and what is told of it in logs, metrics and states."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime, timedelta
from typing import Any

import structlog

from models.enums import Channel, Outcome, Priority
from streams.channels.health import Condition, Health, Snapshot
from streams.channels.slots import Slots
from streams.channels.weights import Track
from streams.metrics import ATTEMPTS, PROVIDER_SECONDS, PROVIDER_STATE
from streams.providers.base import NotificationProvider

log = structlog.get_logger()


class Link:
    """A provider and all that this process knows of it."""

    def __init__(self, channel: Channel, provider: NotificationProvider, now: float) -> None:
        self.provider = provider
        self.name = provider.name
        self.health = Health(now)
        #: Kept where traffic is shared by weights.
        self.track: Track | None = None
        self._channel = channel
        self._slots = None if provider.most_calls is None else Slots(provider.most_calls)
        self._seconds = PROVIDER_SECONDS.labels(channel, self.name)
        self._attempts = {outcome: ATTEMPTS.labels(channel, self.name, outcome) for outcome in Outcome}
        self._gauges = {state: PROVIDER_STATE.labels(channel, self.name, state) for state in Condition}
        self._show()

    def slot(self, priority: Priority, *, within_seconds: float) -> AbstractAsyncContextManager[None]:
        """A call of those the provider takes at once; waiting for it is no part of the call's timeout."""
        return nullcontext() if self._slots is None else self._slots.one(priority, within_seconds=within_seconds)

    def count(self, outcome: Outcome, seconds: float) -> None:
        """A call that was made."""
        self._seconds.observe(seconds)
        self._attempts[outcome].inc()
        if self.track is not None:
            self.track.note(outcome, seconds)

    def tell_change(self, before: Snapshot, now: float) -> None:
        """Logs a change once, and sets the gauges. Failed probes are told in a lower voice than what they confirm."""
        self._show()
        health = self.health
        seconds = round(max(0.0, health.until - now), 1)
        facts = {"channel": self._channel, "provider": self.name, "detail": health.detail}
        if health.condition is before.condition:
            if health.until > before.until:
                log.info("provider still held", reason=health.condition, seconds=seconds, **facts)
        elif health.condition is Condition.CLOSED:
            log.info("provider resumed", was=before.condition, **facts)
        elif health.is_held:
            log.warning("provider held", reason=health.condition, seconds=seconds, **facts)
        else:
            log.warning("provider degraded", **facts)

    def state(self, now: float, wall: datetime) -> dict[str, Any]:
        """What it is and since when; `now` and `wall` are the same moment."""
        health = self.health
        is_well = health.condition is Condition.CLOSED
        return {
            "state": health.phase(now),
            "reason": None if is_well else str(health.condition),
            "detail": health.detail,
            "since": (wall + timedelta(seconds=health.since - now)).isoformat(),
            "until": None if is_well else (wall + timedelta(seconds=health.until - now)).isoformat(),
        }

    def _show(self) -> None:
        for state, gauge in self._gauges.items():
            gauge.set(state is self.health.condition)
