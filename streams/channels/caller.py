"""One lane's way to its channel's provider: a slot, a timeout, and a result whatever happens."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext

import structlog

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import Settings
from streams.metrics import ATTEMPTS, PROVIDER_SECONDS
from streams.providers.base import DeliveryResult, NotificationProvider, UnsupportedFeature

log = structlog.get_logger()


class Caller:
    """Calls the first provider of a chain, so many times at once as the lane and the provider allow."""

    def __init__(self, channel: Channel, providers: Sequence[NotificationProvider], settings: Settings) -> None:
        self._provider = providers[0] if providers else None
        self._slots = asyncio.Semaphore(settings.calls_in_flight)
        self._timeout_seconds = settings.provider_timeout_seconds
        name = self._provider.name if self._provider is not None else "none"
        self._seconds = PROVIDER_SECONDS.labels(channel, name)
        self._attempts = {outcome: ATTEMPTS.labels(channel, name, outcome) for outcome in Outcome}

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """Waits for a free call; waiting is no part of the call's timeout."""
        shared = self._provider.slots if self._provider is not None else None
        async with self._slots, shared or nullcontext():
            yield

    async def call(self, delivery: Delivery) -> DeliveryResult:
        """Makes one call within a slot. Never raises for what the provider did."""
        if self._provider is None:
            return DeliveryResult(outcome=Outcome.PERMANENT, provider="none", reason="no_provider")
        started = time.perf_counter()
        result = await self._result(self._provider, delivery)
        self._seconds.observe(time.perf_counter() - started)
        self._attempts[result.outcome].inc()
        return result

    async def _result(self, provider: NotificationProvider, delivery: Delivery) -> DeliveryResult:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await provider.send(delivery)
        except (UnsupportedFeature, Refused) as error:
            return _failed(provider, Outcome.PERMANENT, f"invalid {error.field}")
        except TimeoutError:
            return _failed(provider, Outcome.AMBIGUOUS, "timeout")
        except Exception as error:
            # Only the kind of error: its text may hold what the provider was given.
            reason = f"provider raised {type(error).__name__}"
            log.error(reason, provider=provider.name, delivery_id=str(delivery.delivery_id))  # noqa: TRY400
            return _failed(provider, Outcome.RETRY, reason)


def _failed(provider: NotificationProvider, outcome: Outcome, reason: str) -> DeliveryResult:
    return DeliveryResult(outcome=outcome, provider=provider.name, reason=reason)
