"""Push: one delivery goes to all devices of a person, each by the provider of its platform.

Platforms don't stand in for each other, so each has a chain of its own, of one provider; the lane sees them as one. A
lane's turn is with the first platform that takes calls, and pays for one call of it; what else a delivery needs is
paid for when its devices are known. One platform in trouble holds up its own devices only.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority
from models.settings import Settings
from streams.channels.chain import Chain, Hold, TakeToken, Turn
from streams.channels.fan_out import merged
from streams.channels.pace import Paces, Unpaced
from streams.providers.base import DeliveryResult, NotificationProvider, Reach

#: Devices that could not be asked wait at least so long.
_LEAST_WAIT_SECONDS = 1.0
#: Of the lease: what is left to record the outcome when the last call has run into its timeout.
_MARGIN_SECONDS = 1.0
_LEAST_PAUSE_SECONDS = 0.01


class PushChain:
    """See the module. Offers lanes what `Chain` does; `limits` pace the calls beyond the first of a turn."""

    def __init__(
        self,
        providers: Sequence[NotificationProvider],
        settings: Settings,
        clock: Callable[[], float] = time.monotonic,
        *,
        limits: Paces | None = None,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        on_retry_after: Callable[[str, float], None] | None = None,
    ) -> None:
        self.channel = Channel.PUSH
        self._limits = limits or Unpaced()
        self._clock = clock
        self._timeout_seconds = settings.provider_timeout_seconds

        def chain(given: Sequence[NotificationProvider]) -> Chain:
            return Chain(Channel.PUSH, given, settings, clock, wall_clock=wall_clock, on_retry_after=on_retry_after)

        #: By platform, which is the provider's name. Without any, one that refuses all.
        self._chains = {provider.name: chain([provider]) for provider in providers} or {"none": chain([])}
        self._foreign = _foreign_options(providers)

    @property
    def call_slots(self) -> int:
        """How many deliveries of a lane may be in doubt at a time."""
        return min(chain.call_slots for chain in self._chains.values())

    def pick(self, wanted: int, priority: Priority = Priority.NORMAL) -> Turn | Hold:
        """With the first platform that takes calls; a probe only where none does."""
        probe: Turn | None = None
        holds: list[Hold] = []
        for chain in self._chains.values():
            picked = chain.pick(wanted, priority)
            if isinstance(picked, Hold):
                holds.append(picked)
            elif picked.admission is not None and probe is None:
                probe = picked
            elif picked.admission is not None:
                chain.give_back(picked, picked.calls)
            else:
                if probe is not None:  # its platform is probed by the first delivery that has devices there
                    self.give_back(probe, probe.calls)
                return picked
        return probe or min(holds, key=lambda hold: hold.until)

    def give_back(self, turn: Turn, unused: int) -> None:
        """Calls of a turn that will not be made."""
        self._chains[turn.provider.name].give_back(turn, unused)

    async def wait(self, until: float) -> None:
        """Returns at `until`, or earlier when the state of any provider changes."""
        waiting = [asyncio.ensure_future(chain.wait(until)) for chain in self._chains.values()]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def hold(self, name: str, seconds: float) -> None:
        """Another process was asked to wait by this provider."""
        for chain in self._chains.values():
            chain.hold(name, seconds)

    def states(self) -> dict[str, dict[str, Any]]:
        """Each provider by name."""
        return {name: state for chain in self._chains.values() for name, state in chain.states().items()}

    async def call(
        self, turn: Turn, delivery: Delivery, *, seconds_left: float, take: TakeToken | None = None
    ) -> DeliveryResult:
        """Calls the providers of all devices; see `fan_out.merged` for what their results come to. Never raises."""
        ends = self._clock() + seconds_left
        places: dict[str, list[int]] = {}
        for place, device in enumerate(delivery.devices):
            places.setdefault(device.platform, []).append(place)
        if turn.provider.name not in places:
            await self._unused(turn)
        found: dict[int, DeliveryResult] = {}
        groups = [
            self._group(_Group(platform, delivery, turn, ends), its_places, found)
            for platform, its_places in places.items()
        ]
        if len(groups) == 1:
            await groups[0]
        else:
            await asyncio.gather(*groups)
        if not found:
            return _not_asked("none", Outcome.PERMANENT, "no_address")
        return merged(delivery, [found[place] for place in range(len(delivery.devices))])

    async def _unused(self, turn: Turn) -> None:
        """No device of the delivery is of the turn's platform."""
        self._chains[turn.provider.name].give_back(turn, turn.calls)
        await self._limits.give_back(self.channel, turn.provider.name, 1)

    async def _group(self, group: _Group, places: Sequence[int], found: dict[int, DeliveryResult]) -> None:
        """The devices of one platform: all at once, or after a probe by the first."""
        chain = self._chains.get(group.platform)
        if chain is None:
            found |= dict.fromkeys(places, _not_asked("none", Outcome.PERMANENT, "no_provider"))
            return
        left = list(places)
        turn = group.turn if group.turn.provider.name == group.platform else None
        paid = await self._paid(group, len(left) - (turn is not None)) + (turn is not None)
        while left and paid:
            picked = turn or chain.pick(paid, group.turn.priority)
            turn = None
            if isinstance(picked, Hold):
                break
            count = min(len(left), 1 if picked.admission is not None else paid)
            now, left = left[:count], left[count:]
            paid -= count
            if len(now) == 1:
                found[now[0]] = await self._one(chain, group, picked, now[0])
                continue
            results = await asyncio.gather(*(self._one(chain, group, picked, place) for place in now))
            found |= dict(zip(now, results, strict=True))
        if paid:
            await self._limits.give_back(self.channel, group.platform, paid)
        if left:
            held = _not_asked(group.platform, Outcome.BROKEN, "held")._replace(retry_after=self._wait(chain))
            found |= dict.fromkeys(left, held)

    async def _one(self, chain: Chain, group: _Group, turn: Turn, place: int) -> DeliveryResult:
        result = await chain.call(
            turn, self._for_device(group.delivery, place), seconds_left=group.ends - self._clock()
        )
        if result.outcome is Outcome.BROKEN and len(self._chains) > 1:
            # The lane has no way of its own to wait for this platform alone.
            return result._replace(retry_after=max(result.retry_after or timedelta(), self._wait(chain)))
        return result

    def _for_device(self, delivery: Delivery, place: int) -> Delivery:
        """What its provider is given: one device, and no options that are another platform's."""
        device = delivery.devices[place]
        changes: dict[str, Any] = {} if len(delivery.devices) == 1 else {"devices": (device,)}
        options, foreign = delivery.options.provider, self._foreign.get(device.platform)
        if options and foreign and not foreign.isdisjoint(options):
            own = {name: value for name, value in options.items() if name not in foreign}
            changes["options"] = delivery.options.model_copy(update={"provider": own})
        return delivery.model_copy(update=changes) if changes else delivery

    def _wait(self, chain: Chain) -> timedelta:
        """How long until its provider may be asked again."""
        picked = chain.pick(1)
        if isinstance(picked, Hold):
            return timedelta(seconds=max(_LEAST_WAIT_SECONDS, picked.until - self._clock()))
        chain.give_back(picked, picked.calls)
        return timedelta(seconds=_LEAST_WAIT_SECONDS)

    async def _paid(self, group: _Group, wanted: int) -> int:
        """Tokens for so many calls, waited for as long as the lease leaves time for the calls themselves."""
        granted = 0
        latest = group.ends - self._timeout_seconds - _MARGIN_SECONDS
        while granted < wanted:
            grant = await self._limits.take(self.channel, group.platform, group.turn.priority, wanted - granted)
            granted += grant.granted
            if grant.is_held:
                self.hold(group.platform, grant.wait_seconds)
            if granted == wanted or grant.is_held or self._clock() + grant.wait_seconds > latest:
                break
            await asyncio.sleep(max(_LEAST_PAUSE_SECONDS, grant.wait_seconds))
        return granted


@dataclass(frozen=True, slots=True)
class _Group:
    """The devices of one platform of a delivery."""

    platform: str
    delivery: Delivery
    turn: Turn
    #: Of the claim's lease, in seconds of the chain's clock.
    ends: float


def _foreign_options(providers: Sequence[NotificationProvider]) -> dict[str, frozenset[str]]:
    """For each platform the names of `options.provider` that another one knows, and it doesn't."""
    own = {provider.name: frozenset(getattr(provider, "own_options", ())) for provider in providers}
    return {name: frozenset().union(*own.values()) - names for name, names in own.items()}


def _not_asked(provider: str, outcome: Outcome, reason: str) -> DeliveryResult:
    return DeliveryResult(outcome=outcome, provider=provider, reason=reason, reach=Reach.NOT_ASKED)
