"""What the results for a message's devices come to, for the message. Pure.

A message goes to all devices of a person in one attempt. What took it is not asked again: the next attempt is for the
devices that may still take it. In the end the message was sent if any device ever took it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from models.changes import DeadDevice
from models.deliveries import Delivery
from models.enums import Outcome
from streams.domain.retry import AMBIGUOUS_REPEATS
from streams.providers.base import DeliveryResult, FanOut

#: Reason of a message none of whose devices is alive.
NO_LIVE_DEVICE = "no live device"

_LATER = (Outcome.RETRY, Outcome.AMBIGUOUS, Outcome.BROKEN)
#: Whose reason is told of several that failed.
_TELLING = (Outcome.PERMANENT, Outcome.AMBIGUOUS, Outcome.RETRY, Outcome.BROKEN, Outcome.TARGET_DEAD, Outcome.SENT)


def merged(delivery: Delivery, results: Sequence[DeliveryResult]) -> DeliveryResult:
    """One result for the results of the delivery's devices, in their order.

    `broken` only where no device could be asked at all: then no attempt was made. Where some were and the others'
    provider is broken, the next attempt is due, but this one burns no try (`FanOut.is_try`).
    """
    if len(results) == 1 and not delivery.reached and results[0].outcome is not Outcome.TARGET_DEAD:
        return results[0]
    if all(result.outcome is Outcome.BROKEN for result in results):
        return results[0]._replace(retry_after=_longest(results))
    left = [place for place, result in enumerate(results) if _may_be_repeated(delivery, result)]
    took = [result for result in results if result.outcome is Outcome.SENT]
    fan_out = FanOut(
        remaining=sum(1 << place for place in left),
        reached=len(took),
        dead=_dead(delivery, results),
        is_try=not left or any(results[place].outcome is not Outcome.BROKEN for place in left),
    )
    told = took[0] if took else min(results, key=lambda result: _TELLING.index(result.outcome))
    return told._replace(
        outcome=_outcome(delivery, results, left),
        reason=_reason(results, told),
        retry_after=_longest([results[place] for place in left]),
        fan_out=fan_out,
    )


def _may_be_repeated(delivery: Delivery, result: DeliveryResult) -> bool:
    if result.outcome is Outcome.AMBIGUOUS:
        return delivery.ambiguous < AMBIGUOUS_REPEATS
    return result.outcome in _LATER


def _outcome(delivery: Delivery, results: Sequence[DeliveryResult], left: Sequence[int]) -> Outcome:
    outcomes = {results[place].outcome for place in left}
    if outcomes:
        return Outcome.AMBIGUOUS if Outcome.AMBIGUOUS in outcomes else Outcome.RETRY
    outcomes = {result.outcome for result in results}
    if Outcome.SENT in outcomes or delivery.reached:
        return Outcome.SENT
    if outcomes == {Outcome.TARGET_DEAD}:
        return Outcome.TARGET_DEAD
    return Outcome.AMBIGUOUS if Outcome.AMBIGUOUS in outcomes else Outcome.PERMANENT


def _reason(results: Sequence[DeliveryResult], told: DeliveryResult) -> str | None:
    """Why not all of them: the worst of what was said."""
    failed = [result for result in results if result.outcome is not Outcome.SENT]
    if not failed:
        return told.reason
    if len(results) > 1 and all(result.outcome is Outcome.TARGET_DEAD for result in results):
        return NO_LIVE_DEVICE
    worst = min(failed, key=lambda result: _TELLING.index(result.outcome))
    return worst.reason if len(results) == 1 else f"{len(failed)} of {len(results)} devices: {worst.reason}"


def _dead(delivery: Delivery, results: Sequence[DeliveryResult]) -> tuple[DeadDevice, ...]:
    return tuple(
        DeadDevice(platform=device.platform, token=device.token, dead_since=result.dead_since)
        for device, result in zip(delivery.devices, results, strict=True)
        if result.outcome is Outcome.TARGET_DEAD
    )


def _longest(results: Sequence[DeliveryResult]) -> timedelta | None:
    return max((result.retry_after for result in results if result.retry_after is not None), default=None)
