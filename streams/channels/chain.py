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
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, NamedTuple

import structlog

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority
from models.errors import Refused
from models.settings import Settings
from streams.channels.health import Admission, Offer, Snapshot
from streams.channels.link import Link
from streams.channels.weights import Shares, Track, effective
from streams.metrics import FAIL_OVERS
from streams.providers.base import DeliveryResult, NotificationProvider, Reach, UnsupportedFeature

log = structlog.get_logger()

#: What a fail-over must leave of the lease beyond a whole call.
_FAIL_OVER_MARGIN_SECONDS = 1.0
#: A delivery that waits for another provider than those that work is not asked for again sooner.
_LEAST_PUT_OFF_SECONDS = 1.0
#: Reason of a result without a call: the provider was held meanwhile, or the lease would not have covered the call.
HELD = "held"
OUT_OF_TIME = "no time left"


@dataclass(frozen=True, slots=True)
class Turn:
    """So many calls may be made now, to this provider first."""

    provider: NotificationProvider
    calls: int
    #: Of the lane whose turn it is.
    priority: Priority
    #: Of a probe; other calls are admitted when they are made.
    admission: Admission | None = None


@dataclass(frozen=True, slots=True)
class Hold:
    """Nobody of the chain may be called before `until` (seconds of the chain's clock), or before a state changes."""

    until: float
    #: For people, as in `sendgrid: broken`.
    reason: str


#: Asks the limits for one call to a provider, by its name.
TakeToken = Callable[[str], Awaitable[bool]]


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
        self._links = [Link(channel, provider, clock()) for provider in providers or [_NoProvider()]]
        self._changed = asyncio.Event()
        self._weights = {name: weight for name, weight in settings.weights(channel).items() if weight > 0}
        #: Those that traffic is shared among; the others, and all where there are no weights, are for fail-over.
        self._sharing = [link for link in self._links if link.name in self._weights]
        self._shares = Shares()
        for link in self._sharing:
            link.track = Track(clock)

    @property
    def call_slots(self) -> int:
        """How many calls of a lane may be in doubt at a time: what a killed worker leaves behind.

        Where the first provider bounds its calls itself, a few for each of its slots: they take turns.
        """
        most = self._links[0].provider.most_calls
        return self._calls_in_flight if most is None else min(self._calls_in_flight, 4 * most)

    def pick(self, wanted: int, priority: Priority = Priority.NORMAL) -> Turn | Hold:
        """The first that takes calls now, or whose turn it is by weight; a degraded one where there is no better.

        A turn may be of fewer calls than wanted: ask again for the rest.
        """
        now = self._clock()
        if self._sharing and (turn := self._shared(wanted, priority, now)) is not None:
            return turn
        last_resort: Link | None = None
        for link in self._links:
            offer = link.health.offer(now)
            if offer is Offer.CALLS:
                return Turn(link.provider, wanted, priority)
            if offer is Offer.PROBE:
                return Turn(link.provider, 1, priority, link.health.admit(now))
            if offer is Offer.LAST_RESORT:
                last_resort = last_resort or link
        if last_resort is not None:
            return Turn(last_resort.provider, wanted, priority)
        soonest = min(self._links, key=lambda link: link.health.asks_again_at(now))
        return Hold(soonest.health.asks_again_at(now), f"{soonest.name}: {soonest.health.condition}")

    def _shared(self, wanted: int, priority: Priority, now: float) -> Turn | None:
        """A turn of those with weights. Each that is due for its probe gets one; None where nobody takes calls."""
        able: dict[str, Link] = {}
        for link in self._sharing:
            offer = link.health.offer(now)
            if offer is Offer.PROBE:
                return Turn(link.provider, 1, priority, link.health.admit(now))
            if offer is Offer.CALLS:
                able[link.name] = link
        if not able:
            return None
        name, calls = self._shares.deal(self._effective(able.values()), wanted)
        return Turn(able[name].provider, calls, priority)

    def _effective(self, links: Iterable[Link]) -> dict[str, float]:
        """The share of each in the next calls."""
        return effective(
            {link.name: link.track.standing(self._weights[link.name]) for link in links if link.track is not None}
        )

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

    def hold(self, name: str, seconds: float) -> None:
        """Another process was asked to wait by this provider: nobody calls it here either."""
        for link in self._links:
            if link.name == name:
                with self._watching(link, is_news=False):
                    link.health.throttle(self._clock(), seconds)

    async def call(
        self, turn: Turn, delivery: Delivery, *, seconds_left: float, take: TakeToken | None = None
    ) -> DeliveryResult:
        """Makes the call, and the next provider's where the first certainly did not take the message. Never raises.

        `seconds_left` is what remains of the claim's lease: no call is begun that it doesn't cover. `take` asks the
        limits for one call to another provider than the turn's. The result is the last provider's, except that one who
        could not be asked never hides an earlier failure that counts as a try. `broken` means that no try is burnt:
        release the claim and pick anew; with a `retry_after`, while others of the chain work but can't do what this
        delivery asks for: put it off for so long, and let the next ones pass.
        """
        call = _Call(delivery, turn.priority, self._clock() + seconds_left - self._timeout_seconds, take)
        answer = await self._ask(self._link_of(turn), call, turn.admission)
        return await self._go_on(call, answer) if answer.may_go_on else answer.result

    async def _go_on(self, call: _Call, answer: _Answer) -> DeliveryResult:
        """The first did not take it: the next ones, as far as time and limits allow."""
        told = answer
        while answer.may_go_on and (following := await self._following(call, answer.result)) is not None:
            link, admission = following
            self._tell_fail_over(call.delivery, answer.result, link)
            answer = await self._ask(link, call, admission)
            told = _more_telling(told, answer)
        return self._put_off(call, told.result) if told.is_unsupported else told.result

    def states(self) -> dict[str, dict[str, Any]]:
        """Each provider by name: state, reason, detail, since and until (RFC 3339; by the wall clock of now).

        And the share of the next calls, where they are shared by weights.
        """
        now = self._clock()
        wall = self._wall_clock()
        able = [link for link in self._sharing if link.health.offer(now) is Offer.CALLS]
        shares = self._effective(able) if able else {}
        return {
            link.name: link.state(now, wall) | ({"share": shares.get(link.name, 0.0)} if shares else {})
            for link in self._links
            if not isinstance(link.provider, _NoProvider)
        }

    async def _ask(self, link: Link, call: _Call, admission: Admission | None) -> _Answer:
        """One provider. A probe that comes to no verdict, also by cancellation, is given back."""
        call.tried.append(link)
        result: DeliveryResult | None = None
        try:
            async with link.slot(call.priority, within_seconds=call.starts_by - self._clock()):
                now = self._clock()
                if now > call.starts_by:
                    return _not_called(link, OUT_OF_TIME)
                if admission is None:
                    admission = link.health.admit(now)
                if admission is None or (admission.probe is not None and not link.health.begin(admission, now)):
                    return _not_called(link, HELD)
                started = time.perf_counter()
                answer = await self._answer(link.provider, call.delivery)
                result = answer.result
                link.count(result.outcome, time.perf_counter() - started)
                if answer.is_unsupported:
                    call.unable.append(link)
                return answer
        except TimeoutError:
            return _not_called(link, OUT_OF_TIME)
        finally:
            if admission is not None:
                self._learn(link, admission, call.delivery, result)

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

    async def _following(self, call: _Call, result: DeliveryResult) -> tuple[Link, Admission] | None:
        """Who is tried next, while the lease covers it. A degraded one only for what could not be tried at all."""
        latest = call.starts_by - _FAIL_OVER_MARGIN_SECONDS
        for link in self._links:
            if link in call.tried or self._clock() > latest:
                continue
            admission = link.health.admit(self._clock(), as_last_resort=result.outcome is not Outcome.RETRY)
            if admission is None:
                continue
            if call.take is None or await call.take(link.name):
                return link, admission
            with self._watching(link):
                link.health.give_back(admission)
        return None

    def _put_off(self, call: _Call, result: DeliveryResult) -> DeliveryResult:
        """Who was asked can't do it. Final only when nobody else is left: one that is held may be able to."""
        now = self._clock()
        waits = [link.health.asks_again_at(now) - now for link in self._links if link not in call.unable]
        if not waits:
            return result
        wait = timedelta(seconds=max(_LEAST_PUT_OFF_SECONDS, min(waits)))
        return result._replace(outcome=Outcome.BROKEN, retry_after=wait)

    def _learn(self, link: Link, admission: Admission, delivery: Delivery, result: DeliveryResult | None) -> None:
        before = link.health.snapshot()
        if result is None:
            link.health.give_back(admission)
        else:
            link.health.note(admission, delivery.delivery_id, result, self._clock())
        self._tell_since(before, link)

    @contextmanager
    def _watching(self, link: Link, *, is_news: bool = True) -> Iterator[None]:
        before = link.health.snapshot()
        yield
        self._tell_since(before, link, is_news=is_news)

    def _tell_since(self, before: Snapshot, link: Link, *, is_news: bool = True) -> None:
        """After all that may change a state: whoever waits is woken, and people are told, and other processes."""
        after = link.health.snapshot()
        if after == before:
            return
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
        now = self._clock()
        link.tell_change(before, now)
        is_asked = link.health.asked_to_wait and after.until > before.until
        if self._on_retry_after is not None and is_news and is_asked:
            self._on_retry_after(link.name, after.until - now)

    def _tell_fail_over(self, delivery: Delivery, result: DeliveryResult, to: Link) -> None:
        FAIL_OVERS.labels(self.channel, result.provider, to.name).inc()
        log.info(
            "provider fail-over",
            delivery_id=str(delivery.delivery_id),
            provider=result.provider,
            to=to.name,
            outcome=result.outcome,
            reason=result.reason,
        )

    def _link_of(self, turn: Turn) -> Link:
        return next(link for link in self._links if link.provider is turn.provider)


@dataclass(slots=True)
class _Call:
    """One delivery on its way along the chain."""

    delivery: Delivery
    priority: Priority
    #: A call that begins later may outlive the claim's lease.
    starts_by: float
    take: TakeToken | None
    tried: list[Link] = field(default_factory=list)
    #: Those of them that lack what the delivery asks for.
    unable: list[Link] = field(default_factory=list)


class _Answer(NamedTuple):
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


def _more_telling(told: _Answer, answer: _Answer) -> _Answer:
    """The answer that counts: a failed try stands when the next one could not take part."""
    took_no_part = answer.is_unsupported or answer.result.outcome is Outcome.BROKEN
    return told if told.result.outcome is Outcome.RETRY and took_no_part else answer


def _not_called(link: Link, reason: str) -> _Answer:
    return _Answer(_failed(link.provider, Outcome.BROKEN, reason, Reach.NOT_ASKED), may_go_on=True)


def _failed(provider: NotificationProvider, outcome: Outcome, reason: str, reach: Reach) -> DeliveryResult:
    return DeliveryResult(outcome=outcome, provider=provider.name, reason=reason, reach=reach)
