"""The providers of a channel in their order: who is called now, who is tried next, and when to ask again.

One for each channel and process, shared by its three lanes; one event loop, so no locks. A lane goes

    turn = chain.pick(wanted)          # a Turn: claim so many and call them. A Hold: `await chain.wait(hold.until)`
    result = await chain.call(turn, delivery, seconds_left=…)
    chain.give_back(turn, unused)      # what was not called after all: claims lost, no tokens

Between `pick` and the call the provider may have fallen into trouble; the call looks again, at the last moment.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import structlog

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import Settings
from streams.channels.health import Admission, Condition, Health, Offer, Snapshot
from streams.metrics import ATTEMPTS, FAIL_OVERS, PROVIDER_SECONDS, PROVIDER_STATE
from streams.providers.base import DeliveryResult, NotificationProvider, Reach, UnsupportedFeature

log = structlog.get_logger()

#: What a fail-over must leave of the lease beyond a whole call.
_FAIL_OVER_MARGIN_SECONDS = 1.0
#: Reason of a result without a call: the provider was held meanwhile, or the lease would not have covered the call.
HELD = "held"
OUT_OF_TIME = "no time left"


@dataclass(frozen=True, slots=True)
class Turn:
    """So many calls may be made now, to this provider first."""

    provider: NotificationProvider
    calls: int
    #: Of a probe; other calls are admitted when they are made.
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Nobody of the chain may be called before `until` (seconds of the chain's clock), or before a state changes."""

    until: float
    #: For people, as in `sendgrid: broken`.
    reason: str


class Chain:
    """See the module. `on_retry_after` is told (provider, seconds) when a vendor asks to wait, for other processes."""

    def __init__(
        self,
        channel: Channel,
        providers: Sequence[NotificationProvider],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        *,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_retry_after: Callable[[str, float], None] | None = None,
    ) -> None:
        self.channel = channel
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_retry_after = on_retry_after
        self._timeout_seconds = settings.provider_timeout_seconds
        self._calls_in_flight = settings.calls_in_flight
        self._links = [_Link(channel, provider, clock()) for provider in providers or [_NoProvider()]]
        self._changed = asyncio.Event()

    @property
    def call_slots(self) -> int:
        """How many calls of a lane may be in doubt at a time: what a killed worker leaves behind.

        Where the first provider bounds its calls itself, a few for each of its slots: they take turns.
        """
        most = self._links[0].provider.most_calls
        return self._calls_in_flight if most is None else min(self._calls_in_flight, 4 * most)

    def pick(self, wanted: int) -> Turn | Hold:
        """The first provider that takes calls now; a degraded one where there is no better."""
        now = self._clock()
        last_resort: _Link | None = None
        for link in self._links:
            offer = link.health.offer(now)
            if offer is Offer.CALLS:
                return Turn(link.provider, wanted)
            if offer is Offer.PROBE:
                return Turn(link.provider, 1, link.health.admit(now))
            if offer is Offer.LAST_RESORT:
                last_resort = last_resort or link
        if last_resort is not None:
            return Turn(last_resort.provider, wanted)
        soonest = min(self._links, key=lambda link: link.health.asks_again_at(now))
        return Hold(soonest.health.asks_again_at(now), f"{soonest.name}: {soonest.health.condition}")

    def give_back(self, turn: Turn, unused: int) -> None:
        """Calls of a turn that will not be made. Those waiting for the result of a probe are woken."""
        if unused > 0 and turn.admission is not None:
            link = self._link_of(turn)
            with self._watching(link):
                link.health.give_back(turn.admission)

    async def wait(self, until: float) -> None:
        """Returns at `until`, or earlier when the state of any provider changes."""
        changed = self._changed
        try:
            async with asyncio.timeout(max(0.0, until - self._clock())):
                await changed.wait()
        except TimeoutError:
            pass

    async def call(self, turn: Turn, delivery: Delivery, *, seconds_left: float) -> DeliveryResult:
        """Makes the call, and the next provider's where the first certainly did not take the message. Never raises.

        `seconds_left` is what remains of the claim's lease: no call is begun that it doesn't cover. The result is the
        last provider's, except that one who could not be asked never hides an earlier failure that counts as a try.
        `broken` means that no try is burnt: release the claim and hold; with a `retry_after`, while others of the chain
        work but can't do what this delivery asks for: put it off for so long, and let the next ones pass.
        """
        starts_by = self._clock() + seconds_left - self._timeout_seconds
        link = self._link_of(turn)
        answer = await self._ask(link, delivery, turn.admission, starts_by)
        told, tried = answer.result, [link]
        while answer.may_go_on and (following := self._following(tried, answer.result, starts_by)) is not None:
            link, admission = following
            tried.append(link)
            self._tell_fail_over(delivery, answer.result, link)
            answer = await self._ask(link, delivery, admission, starts_by)
            told = _more_telling(told, answer)
        return self._put_off(told, tried) if answer.is_unsupported and told is answer.result else told

    def states(self) -> dict[str, dict[str, Any]]:
        """Each provider by name: state, reason, detail, since and until (RFC 3339; by the wall clock of now)."""
        now = self._clock()
        return {link.name: self._state(link.health, now) for link in self._links if not link.is_nobody}

    async def _ask(self, link: _Link, delivery: Delivery, admission: Admission | None, starts_by: float) -> _Answer:
        """One provider. A probe that comes to no verdict, also by cancellation, is given back."""
        result: DeliveryResult | None = None
        try:
            async with self._slot(link, starts_by):
                now = self._clock()
                if now > starts_by:
                    return _not_called(link, OUT_OF_TIME)
                if admission is None:
                    admission = link.health.admit(now)
                if admission is None or (admission.probe is not None and not link.health.begin(admission, now)):
                    return _not_called(link, HELD)
                answer = await self._called(link, delivery)
                result = answer.result
                return answer
        except TimeoutError:
            return _not_called(link, OUT_OF_TIME)
        finally:
            if admission is not None:
                self._learn(link, admission, delivery, result)

    @asynccontextmanager
    async def _slot(self, link: _Link, starts_by: float) -> AsyncIterator[None]:
        """Waits for a free call of the provider's own; waiting is no part of the call's timeout."""
        slots = link.provider.slots
        if slots is None:
            yield
            return
        async with asyncio.timeout(max(0.0, starts_by - self._clock())):
            await slots.acquire()
        try:
            yield
        finally:
            slots.release()

    async def _called(self, link: _Link, delivery: Delivery) -> _Answer:
        started = time.perf_counter()
        answer = await self._answer(link.provider, delivery)
        link.seconds.observe(time.perf_counter() - started)
        link.attempts[answer.result.outcome].inc()
        return answer

    async def _answer(self, provider: NotificationProvider, delivery: Delivery) -> _Answer:
        try:
            async with asyncio.timeout(self._timeout_seconds):
                result = await provider.send(delivery)
        except UnsupportedFeature as error:
            refused = _failed(provider, Outcome.PERMANENT, f"invalid {error.field}", Reach.NOT_ASKED)
            return _Answer(refused, may_go_on=True, is_unsupported=True)
        except Refused as error:
            return _Answer(_failed(provider, Outcome.PERMANENT, f"invalid {error.field}", Reach.NOT_ASKED))
        except TimeoutError:
            return _Answer(_failed(provider, Outcome.AMBIGUOUS, "timeout", Reach.AWAY))
        except Exception as error:
            # Only the kind of error: its text may hold what the provider was given.
            reason = f"provider raised {type(error).__name__}"
            log.error(reason, provider=provider.name, delivery_id=str(delivery.delivery_id))  # noqa: TRY400
            return _Answer(_failed(provider, Outcome.RETRY, reason, Reach.UNKNOWN))
        return _Answer(result, may_go_on=was_certainly_not_taken(result))

    def _following(
        self, tried: Sequence[_Link], result: DeliveryResult, starts_by: float
    ) -> tuple[_Link, Admission] | None:
        """Who is tried next, while the lease covers it. A degraded one only for what could not be tried at all."""
        now = self._clock()
        if now > starts_by - _FAIL_OVER_MARGIN_SECONDS:
            return None
        for link in self._links:
            if link not in tried:
                admission = link.health.admit(now, as_last_resort=result.outcome is not Outcome.RETRY)
                if admission is not None:
                    return link, admission
        return None

    def _put_off(self, result: DeliveryResult, tried: Sequence[_Link]) -> DeliveryResult:
        """Nobody asked so far can do it. Final only when nobody else is left: one that is held may be able to."""
        now = self._clock()
        waits = [link.health.asks_again_at(now) - now for link in self._links if link not in tried]
        if not waits:
            return result
        wait = timedelta(seconds=max(0.0, min(waits)))
        return replace(result, outcome=Outcome.BROKEN, retry_after=wait)

    def _learn(self, link: _Link, admission: Admission, delivery: Delivery, result: DeliveryResult | None) -> None:
        with self._watching(link):
            if result is None:
                link.health.give_back(admission)
            else:
                link.health.note(admission, delivery.delivery_id, result, self._clock())

    @contextmanager
    def _watching(self, link: _Link) -> Iterator[None]:
        """Around all that may change a state: whoever waits is woken, and people are told."""
        before = link.health.snapshot()
        yield
        after = link.health.snapshot()
        if after == before:
            return
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        now = self._clock()
        self._tell_change(link, before, now)
        if self._on_retry_after is not None and link.health.asked_to_wait and after.until > before.until:
            self._on_retry_after(link.name, after.until - now)

    def _tell_change(self, link: _Link, before: Snapshot, now: float) -> None:
        health = link.health
        link.show()
        facts = {"channel": self.channel, "provider": link.name, "detail": health.detail}
        if health.condition is before.condition:
            if health.until > before.until:
                log.info("provider still held", state=health.condition, seconds=_rounded(health.until - now), **facts)
        elif health.condition is Condition.CLOSED:
            log.info("provider resumed", was=before.condition, **facts)
        elif health.condition is Condition.DEGRADED:
            log.warning("provider degraded", **facts)
        else:
            log.warning("provider held", reason=health.condition, seconds=_rounded(health.until - now), **facts)

    def _tell_fail_over(self, delivery: Delivery, result: DeliveryResult, to: _Link) -> None:
        FAIL_OVERS.labels(self.channel, result.provider, to.name).inc()
        log.info(
            "provider fail-over",
            delivery_id=str(delivery.delivery_id),
            provider=result.provider,
            to=to.name,
            outcome=result.outcome,
            reason=result.reason,
        )

    def _state(self, health: Health, now: float) -> dict[str, Any]:
        wall = self._wall_clock()
        is_held = health.condition is not Condition.CLOSED
        state = health.condition if not health.is_held else "half-open" if now >= health.until else "held"
        return {
            "state": str(state),
            "reason": str(health.condition) if is_held else None,
            "detail": health.detail,
            "since": (wall + timedelta(seconds=health.since - now)).isoformat(),
            "until": (wall + timedelta(seconds=health.until - now)).isoformat() if is_held else None,
        }

    def _link_of(self, turn: Turn) -> _Link:
        return next(link for link in self._links if link.provider is turn.provider)


class _Link:
    """A provider with its health and what is counted of it."""

    def __init__(self, channel: Channel, provider: NotificationProvider, now: float) -> None:
        self.provider = provider
        self.name = provider.name
        self.health = Health(now)
        self.is_nobody = isinstance(provider, _NoProvider)
        self.seconds = PROVIDER_SECONDS.labels(channel, self.name)
        self.attempts = {outcome: ATTEMPTS.labels(channel, self.name, outcome) for outcome in Outcome}
        self._gauges = {state: PROVIDER_STATE.labels(channel, self.name, state) for state in Condition}
        self.show()

    def show(self) -> None:
        """Sets the gauges."""
        for state, gauge in self._gauges.items():
            gauge.set(state is self.health.condition)


@dataclass(frozen=True, slots=True)
class _Answer:
    """A result, and whether the next provider may be tried."""

    result: DeliveryResult
    may_go_on: bool = False
    is_unsupported: bool = False


class _NoProvider(NotificationProvider):
    """Stands where no provider is configured: each delivery ends at once."""

    name: ClassVar[str] = "none"

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """Refuses."""
        return _failed(self, Outcome.PERMANENT, "no_provider", Reach.NOT_ASKED)


def was_certainly_not_taken(result: DeliveryResult) -> bool:
    """Whether another provider may send it at once, without the person getting it twice."""
    if result.outcome is Outcome.BROKEN:
        return True
    return result.outcome is Outcome.RETRY and result.reach in (Reach.ANSWERED, Reach.AWAY)


def _more_telling(told: DeliveryResult, answer: _Answer) -> DeliveryResult:
    """The result that counts: a failed try stands when the next one could not take part."""
    took_no_part = answer.is_unsupported or answer.result.outcome is Outcome.BROKEN
    return told if told.outcome is Outcome.RETRY and took_no_part else answer.result


def _not_called(link: _Link, reason: str) -> _Answer:
    return _Answer(_failed(link.provider, Outcome.BROKEN, reason, Reach.NOT_ASKED), may_go_on=True)


def _failed(provider: NotificationProvider, outcome: Outcome, reason: str, reach: Reach) -> DeliveryResult:
    return DeliveryResult(outcome=outcome, provider=provider.name, reason=reason, reach=reach)


def _rounded(seconds: float) -> float:
    return round(max(0.0, seconds), 1)
