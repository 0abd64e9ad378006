"""Whether one provider may be called: pure decisions over times and results, no I/O and no clock of its own.

    closed ──(refused account, Retry-After, ten in a row without answer)──▶ held ──(time over)──▶ half-open
      ▲  └──(four of five calls fail)──▶ degraded: called only where there is nothing better             │
      └──────────────────────────────(one probe goes well)───────────────────────────────────────────────┘

Half-open lets one call through, the probe, and holds the others until its result; a probe that fails holds again, for
twice as long. Calls that were in flight when the state changed are of an older *epoch*: what they say is of the past,
and they say it by the hundred, so they change nothing. Only a Retry-After counts whoever brings it.

Times are seconds of a monotonic clock: a jump of the wall clock neither shortens nor prolongs anything.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import NamedTuple
from uuid import UUID

from models.enums import Outcome
from streams.providers.base import DeliveryResult, Reach

#: So many calls in a row without an answer hold the provider.
AWAY_IN_A_ROW = 10
#: Shares are taken over this time, and only of so many deliveries at least.
WINDOW_SECONDS = 30.0
LEAST_CALLS = 50
FAILING_SHARE = 0.8
#: Memory is bounded: older calls of a busy window are forgotten.
MOST_CALLS = 500
#: A degraded provider that has to be called all the same is well again when less than this share fails, of this many.
RECOVERED_SHARE = 0.5
RECOVERED_CALLS = 10
#: A probe that was handed out and never made frees the place of the probe after this.
UNUSED_PROBE_SECONDS = 30.0


class Condition(StrEnum):
    """What is known of a provider."""

    #: it is called
    CLOSED = "closed"
    #: it answers, but most calls fail: called only where no other can be
    DEGRADED = "degraded"
    #: it asked to wait
    THROTTLED = "throttled"
    #: nobody answers
    UNREACHABLE = "unreachable"
    #: it refuses the account
    BROKEN = "broken"


class Offer(Enum):
    """What a provider is good for right now."""

    CALLS = "calls"
    #: one call, and no more until its result
    PROBE = "probe"
    #: calls, if nobody else will take them
    LAST_RESORT = "last resort"
    NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Wait:
    """How long until a probe: the first wait, doubled by each probe that fails."""

    first_seconds: float
    longest_seconds: float

    def after(self, failures: int) -> float:
        """Seconds after so many failed probes."""
        return min(self.longest_seconds, self.first_seconds * 2.0 ** min(failures, 32))


WAITS: Mapping[Condition, Wait] = {
    Condition.BROKEN: Wait(5.0, 60.0),
    Condition.UNREACHABLE: Wait(1.0, 30.0),
    Condition.DEGRADED: Wait(5.0, 60.0),
}


class Admission(NamedTuple):
    """The right to call: of which epoch, and whether it is the probe (by its number)."""

    epoch: int
    probe: int | None = None


class Snapshot(NamedTuple):
    """What others may wait for or be told of."""

    condition: Condition
    until: float
    is_probing: bool


class _Kind(StrEnum):
    GOOD = "good"
    #: answered, and failed
    FAILED = "failed"
    AWAY = "away"


_FAILURES = frozenset({Outcome.RETRY, Outcome.AMBIGUOUS})


class Health:
    """The state of one provider in this process."""

    def __init__(self, now: float) -> None:
        self.condition = Condition.CLOSED
        #: When the condition began; a probe that meets the same trouble again changes nothing in it.
        self.since = now
        #: No call before this time, or, degraded, no probe.
        self.until = -math.inf
        #: The provider's own word for the trouble, as in `401`.
        self.detail: str | None = None
        #: `until` is what the provider asked for.
        self.asked_to_wait = False
        self._epoch = 0
        self._failed_probes = 0
        self._away_in_a_row = 0
        self._recent = _Recent()
        self._probe: int | None = None
        self._probe_ends = math.inf
        self._probes = 0

    @property
    def is_held(self) -> bool:
        """Whether only a probe may call it, if anybody."""
        return self.condition not in (Condition.CLOSED, Condition.DEGRADED)

    def phase(self, now: float) -> str:
        """The state of the circuit in a word: `closed`, `degraded`, `held`, `half-open`."""
        if not self.is_held:
            return str(self.condition)
        return "half-open" if now >= self.until else "held"

    def snapshot(self) -> Snapshot:
        """Compared before and after a step, it tells whether anything changed."""
        return Snapshot(self.condition, self.until, self._probe is not None)

    def offer(self, now: float) -> Offer:
        """What the provider may be asked for now."""
        if self.condition is Condition.CLOSED:
            return Offer.CALLS
        if now >= self.until and not self._is_probing(now):
            return Offer.PROBE
        return Offer.NOTHING if self.is_held else Offer.LAST_RESORT

    def asks_again_at(self, now: float) -> float:
        """When asking anew is worthwhile where the offer is nothing: at the latest when a probe would have ended."""
        return max(self.until, min(self._probe_ends, now + UNUSED_PROBE_SECONDS) if self._is_probing(now) else now)

    def admit(self, now: float, *, as_last_resort: bool = True) -> Admission | None:
        """Takes what is offered: the right to one call, or to many while it is closed. None while it is held."""
        offer = self.offer(now)
        if offer is Offer.CALLS or (offer is Offer.LAST_RESORT and as_last_resort):
            return Admission(self._epoch)
        if offer is not Offer.PROBE:
            return None
        self._probes += 1
        self._probe, self._probe_ends = self._probes, now + UNUSED_PROBE_SECONDS
        return Admission(self._epoch, self._probe)

    def begin(self, admission: Admission, now: float) -> bool:
        """Whether a probe that was admitted earlier may still be made; from now on its result is awaited."""
        if admission.probe is None or admission.probe != self._probe:
            return False
        self._probe_ends = math.inf
        return True

    def give_back(self, admission: Admission) -> None:
        """A probe that was not made, or came to no verdict: the next one may be."""
        if admission.probe is not None and admission.probe == self._probe:
            self._probe, self._probe_ends = None, math.inf

    def note(self, admission: Admission, delivery_id: UUID, result: DeliveryResult, now: float) -> None:
        """What a call says of the provider."""
        self.give_back(admission)
        if result.reach is Reach.NOT_ASKED:
            return
        if result.retry_after is not None and result.retry_after.total_seconds() > 0:
            self.throttle(now, result.retry_after.total_seconds(), result.reason)
        elif admission.epoch != self._epoch:
            return
        elif admission.probe is not None:
            self._judge_probe(result, now)
        else:
            self._judge(delivery_id, result, now)

    def throttle(self, now: float, seconds: float, detail: str | None = None) -> None:
        """The provider asked to wait. It never shortens what is asked already."""
        until = now + seconds
        if self.is_held and until <= self.until:
            return
        held_for_worse = self.condition is Condition.BROKEN
        self._change(Condition.BROKEN if held_for_worse else Condition.THROTTLED, detail or self.detail, now)
        self.until, self.asked_to_wait = until, True

    def _is_probing(self, now: float) -> bool:
        return self._probe is not None and now < self._probe_ends

    def _judge_probe(self, result: DeliveryResult, now: float) -> None:
        if result.outcome is Outcome.BROKEN:
            self._enter(Condition.BROKEN, result.reason, now)
            return
        kind = _kind(result)
        if kind is _Kind.AWAY:
            self._enter(Condition.UNREACHABLE, result.reason, now)
        elif kind is _Kind.FAILED:  # it answers: whoever has nobody else to call may call it
            self._enter(Condition.DEGRADED, result.reason, now)
        else:
            self._close(now)

    def _judge(self, delivery_id: UUID, result: DeliveryResult, now: float) -> None:
        kind = _kind(result)
        self._recent.add(delivery_id, kind, now)
        self._away_in_a_row = self._away_in_a_row + 1 if kind is _Kind.AWAY else 0
        if result.outcome is Outcome.BROKEN:
            self._enter(Condition.BROKEN, result.reason, now)
        elif self._away_in_a_row >= AWAY_IN_A_ROW or self._recent.is_mostly(_Kind.AWAY):
            self._enter(Condition.UNREACHABLE, result.reason, now)
        elif self.condition is Condition.DEGRADED:
            if self._recent.has_recovered():
                self._close(now)
        elif kind is not _Kind.GOOD and self._recent.is_mostly(_Kind.FAILED, _Kind.AWAY):
            self._enter(Condition.DEGRADED, result.reason, now)

    def _enter(self, condition: Condition, detail: str | None, now: float) -> None:
        """Trouble, or a probe that met the same again."""
        again = condition is self.condition
        self._failed_probes = self._failed_probes + 1 if again else 0
        self._change(condition, detail, now)
        self.until = now + WAITS[condition].after(self._failed_probes)

    def _close(self, now: float) -> None:
        self._change(Condition.CLOSED, None, now)
        self.until = -math.inf

    def _change(self, condition: Condition, detail: str | None, now: float) -> None:
        """A new epoch begins: what is under way says nothing of it. A probe keeps its place until it has ended."""
        if condition is not self.condition:
            self.condition, self.since = condition, now
        self.detail, self.asked_to_wait = detail, False
        self._epoch += 1
        self._away_in_a_row = 0
        self._recent = _Recent()
        if self._probe_ends < math.inf:  # it was not made, and may not be any more
            self._probe, self._probe_ends = None, math.inf


class _Recent:
    """The last word on each of the deliveries of the last seconds: one that is repeated counts once."""

    def __init__(self) -> None:
        #: By the number that an id is: what an id's own hash costs counts here. The oldest first.
        self._calls: OrderedDict[int, tuple[float, _Kind]] = OrderedDict()
        self._counts = dict.fromkeys(_Kind, 0)

    def add(self, delivery_id: UUID, kind: _Kind, now: float) -> None:
        calls, counts = self._calls, self._counts
        known = calls.pop(delivery_id.int, None)
        if known is not None:
            counts[known[1]] -= 1
        calls[delivery_id.int] = (now, kind)
        counts[kind] += 1
        while len(calls) > MOST_CALLS or next(iter(calls.values()))[0] < now - WINDOW_SECONDS:
            _, (_, oldest) = calls.popitem(last=False)
            counts[oldest] -= 1

    def is_mostly(self, *kinds: _Kind) -> bool:
        calls = len(self._calls)
        return calls >= LEAST_CALLS and sum(map(self._counts.__getitem__, kinds)) / calls >= FAILING_SHARE

    def has_recovered(self) -> bool:
        calls, failed = len(self._calls), self._counts[_Kind.FAILED] + self._counts[_Kind.AWAY]
        return calls >= RECOVERED_CALLS and failed / calls < RECOVERED_SHARE


def _kind(result: DeliveryResult) -> _Kind:
    if result.reach is Reach.AWAY:
        return _Kind.AWAY
    return _Kind.FAILED if result.outcome in _FAILURES else _Kind.GOOD
