"""A chain of providers: who is called, who is tried next, who waits, and what is told of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority
from models.errors import Refused
from streams.channels.chain import Chain, Hold, Turn, was_certainly_not_taken
from streams.channels.health import AWAY_IN_A_ROW, LEAST_CALLS
from streams.providers.base import DeliveryResult, NotificationProvider, Reach, UnsupportedFeature
from tests.contracts.deliveries import SECRETS, email_delivery, settings

WALL = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
LEASE = 12.0


class Clock:
    """Moves only when told to; begins where a real one might."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def says(
    outcome: Outcome, reach: Reach = Reach.ANSWERED, *, reason: str = "r", retry_after: float | None = None
) -> dict[str, Any]:
    wait = None if retry_after is None else timedelta(seconds=retry_after)
    return {"outcome": outcome, "reach": reach, "reason": reason, "retry_after": wait}


SENT = says(Outcome.SENT)
BROKEN = says(Outcome.BROKEN, reason="401")
ERROR = says(Outcome.RETRY, reason="500")
REFUSED = says(Outcome.RETRY, Reach.AWAY, reason="unreachable")
TIMEOUT = says(Outcome.AMBIGUOUS, Reach.AWAY, reason="timeout")
WAIT_20 = says(Outcome.RETRY, Reach.AWAY, reason="429", retry_after=20)
LACKING = UnsupportedFeature("options.email.attachments", "p")
Answer = dict[str, Any] | Exception


class Fake(NotificationProvider):
    """Answers as told, and keeps when it was called."""

    channel = Channel.EMAIL

    def __init__(self, name: str, clock: Clock, *, most_calls: int | None = None) -> None:
        self.name = name  # type: ignore[misc]
        self.most_calls = most_calls
        self.answer: Answer = SENT
        self.before: Callable[[], Awaitable[None]] | None = None
        self.after: Callable[[Answer], None] | None = None
        self.calls: list[float] = []
        self._clock = clock

    async def send(self, delivery: Delivery) -> DeliveryResult:
        self.calls.append(self._clock())
        answer = self.answer
        if self.before is not None:
            await self.before()
        if self.after is not None:
            self.after(answer)
        if isinstance(answer, Exception):
            raise answer
        return DeliveryResult(provider=self.name, **answer)


class World:
    """Three providers in a chain and a clock."""

    def __init__(self, providers: int = 2, **more: Any) -> None:
        self.clock = Clock()
        self.providers = [Fake(name, self.clock) for name in ("first", "second", "third")[:providers]]
        self.asked: list[tuple[str, float]] = []
        self.chain = Chain(
            Channel.EMAIL,
            self.providers,
            settings(**more),
            self.clock,
            wall_clock=lambda: WALL,
            on_retry_after=lambda name, seconds: self.asked.append((name, seconds)),
        )

    def answers(self, *answers: Answer) -> None:
        for provider, answer in zip(self.providers, answers, strict=True):
            provider.answer = answer

    def turn(self, wanted: int = 1) -> Turn:
        turn = self.chain.pick(wanted)
        assert isinstance(turn, Turn), turn
        return turn

    async def call(self, *, seconds_left: float = LEASE, **more: Any) -> DeliveryResult:
        return await self.chain.call(self.turn(), email_delivery(), seconds_left=seconds_left, **more)

    def condition(self, name: str) -> str:
        told = self.chain.states()[name]
        return str(told["reason"] or told["state"])

    @property
    def made(self) -> list[int]:
        """Calls by provider."""
        return [len(provider.calls) for provider in self.providers]


@pytest.fixture
def world() -> World:
    return World()


async def test_the_first_that_takes_calls_is_called(world: World) -> None:
    turn = world.turn(100)
    assert (turn.provider.name, turn.calls) == ("first", 100)
    assert (await world.call()).provider == "first"
    assert world.made == [1, 0]


@pytest.mark.parametrize(
    ("answer", "made", "provider", "outcome"),
    [
        (BROKEN, [1, 1], "second", Outcome.SENT),
        (REFUSED, [1, 1], "second", Outcome.SENT),
        (ERROR, [1, 1], "second", Outcome.SENT),
        (WAIT_20, [1, 1], "second", Outcome.SENT),
        (LACKING, [1, 1], "second", Outcome.SENT),
        (SENT, [1, 0], "first", Outcome.SENT),
        (TIMEOUT, [1, 0], "first", Outcome.AMBIGUOUS),
        (says(Outcome.AMBIGUOUS), [1, 0], "first", Outcome.AMBIGUOUS),
        (says(Outcome.PERMANENT), [1, 0], "first", Outcome.PERMANENT),
        (says(Outcome.TARGET_DEAD), [1, 0], "first", Outcome.TARGET_DEAD),
        (Refused("options.email.from", "is wrong"), [1, 0], "first", Outcome.PERMANENT),
        # Whatever broke off in our own code may have been after the vendor took it.
        (RuntimeError("oops"), [1, 0], "first", Outcome.RETRY),
        (TimeoutError(), [1, 0], "first", Outcome.AMBIGUOUS),
    ],
)
async def test_only_what_was_certainly_not_taken_goes_on(
    world: World, answer: Answer, made: list[int], provider: str, outcome: Outcome
) -> None:
    world.answers(answer, SENT)
    result = await world.call()
    assert (world.made, result.provider, result.outcome) == (made, provider, outcome)


@pytest.mark.parametrize(
    ("first", "second", "outcome", "provider"),
    [
        (ERROR, ERROR, Outcome.RETRY, "second"),
        (ERROR, TIMEOUT, Outcome.AMBIGUOUS, "second"),
        (ERROR, says(Outcome.PERMANENT), Outcome.PERMANENT, "second"),
        (BROKEN, ERROR, Outcome.RETRY, "second"),
        (BROKEN, BROKEN, Outcome.BROKEN, "second"),
        # A try that failed stands, when the next one could not take part in it.
        (ERROR, BROKEN, Outcome.RETRY, "first"),
        (ERROR, LACKING, Outcome.RETRY, "first"),
        (LACKING, ERROR, Outcome.RETRY, "second"),
        (LACKING, LACKING, Outcome.PERMANENT, "second"),
        # Whoever could do it is broken: no try is burnt.
        (LACKING, BROKEN, Outcome.BROKEN, "second"),
        (BROKEN, LACKING, Outcome.BROKEN, "second"),
    ],
)
async def test_the_result_of_two(world: World, first: Answer, second: Answer, outcome: Outcome, provider: str) -> None:
    world.answers(first, second)
    result = await world.call()
    assert (world.made, result.outcome, result.provider) == ([1, 1], outcome, provider)


async def test_three_are_tried_in_order() -> None:
    world = World(providers=3)
    world.answers(ERROR, BROKEN, SENT)
    assert (await world.call()).provider == "third"
    assert world.made == [1, 1, 1]


async def test_a_provider_named_twice_is_two(world: World) -> None:
    twins = [Fake("first", world.clock), Fake("first", world.clock)]
    twins[0].answer = BROKEN
    chain = Chain(Channel.EMAIL, twins, settings(), world.clock)
    for _ in range(2):
        turn = chain.pick(1)
        assert isinstance(turn, Turn)
        assert (await chain.call(turn, email_delivery(), seconds_left=LEASE)).outcome is Outcome.SENT
    assert [len(twin.calls) for twin in twins] == [1, 2]


async def test_what_only_a_held_provider_can_do_is_put_off_and_burns_no_try(world: World) -> None:
    world.answers(BROKEN, LACKING)
    await world.call()
    world.answers(SENT, LACKING)
    result = await world.call()
    assert (result.outcome, result.provider, result.retry_after) == (Outcome.BROKEN, "second", timedelta(seconds=5))
    assert world.made == [1, 2]


async def test_what_gets_no_token_where_it_could_be_done_is_put_off_for_a_moment(world: World) -> None:
    async def none(name: str) -> bool:
        return False

    world.answers(LACKING, SENT)
    result = await world.call(take=none)
    assert (result.outcome, result.retry_after, world.made) == (Outcome.BROKEN, timedelta(seconds=1), [1, 0])


async def test_a_chain_without_providers_ends_each_delivery_at_once() -> None:
    chain = Chain(Channel.SMS, [], settings())
    turn = chain.pick(50)
    assert isinstance(turn, Turn)
    for _ in range(100):
        result = await chain.call(turn, email_delivery(), seconds_left=LEASE)
        assert (result.outcome, result.provider, result.reason) == (Outcome.PERMANENT, "none", "no_provider")
    assert chain.states() == {}


async def test_it_never_raises_and_repeats_no_error_s_text(world: World) -> None:
    world.answers(RuntimeError(SECRETS[0]), SENT)
    with capture_logs() as logs:
        result = await world.call()
    assert result.reason == "provider raised RuntimeError"
    assert SECRETS[0] not in repr(logs)


async def test_a_call_ends_by_its_timeout() -> None:
    world = World(provider_timeout_seconds=0.05)
    world.providers[0].before = lambda: asyncio.sleep(30)
    result = await world.call()
    assert (result.outcome, result.reason, result.reach) == (Outcome.AMBIGUOUS, "timeout", Reach.AWAY)


# The lease


async def test_no_call_is_begun_that_the_lease_does_not_cover(world: World) -> None:
    result = await world.call(seconds_left=9.9)
    assert (result.outcome, result.reason, result.reach) == (Outcome.BROKEN, "no time left", Reach.NOT_ASKED)
    assert world.made == [0, 0]


@pytest.mark.parametrize(("seconds_left", "made"), [(10.9, [1, 0]), (11.1, [1, 1])])
async def test_a_fail_over_needs_a_second_more(world: World, seconds_left: float, made: list[int]) -> None:
    world.answers(ERROR, SENT)
    await world.call(seconds_left=seconds_left)
    assert world.made == made


async def test_a_slow_no_leaves_no_time_for_the_next(world: World) -> None:
    async def slowly() -> None:
        world.clock.now += 1.5

    world.answers(ERROR, SENT)
    world.providers[0].before = slowly
    assert (await world.call()).outcome is Outcome.RETRY
    assert world.made == [1, 0]


async def test_waiting_for_a_slot_is_part_of_the_lease() -> None:
    world = World(providers=1)
    busy = Fake("busy", world.clock, most_calls=1)
    chain = Chain(Channel.EMAIL, [busy], settings(provider_timeout_seconds=1), world.clock)
    release = asyncio.Event()
    busy.before = lambda: _until(release)
    turn = chain.pick(9)
    assert isinstance(turn, Turn)
    first = asyncio.create_task(chain.call(turn, email_delivery(), seconds_left=3))
    await asyncio.sleep(0)
    late = await chain.call(turn, email_delivery(), seconds_left=1.01)
    assert (late.outcome, late.reason) == (Outcome.BROKEN, "no time left")
    release.set()
    assert (await first).outcome is Outcome.SENT
    assert len(busy.calls) == 1


# Limits


async def test_a_fail_over_takes_a_token_of_its_own(world: World) -> None:
    asked: list[str] = []

    async def take(name: str) -> bool:
        asked.append(name)
        return False

    world.answers(ERROR, SENT)
    result = await world.call(take=take)
    assert (asked, world.made, result.outcome) == (["second"], [1, 0], Outcome.RETRY)


async def test_a_probe_that_gets_no_token_is_given_back(world: World) -> None:
    async def none(name: str) -> bool:
        return False

    world.answers(ERROR, BROKEN)
    await world.call()
    world.clock.now += 5
    await world.call(take=none)
    assert world.made == [2, 1]
    world.answers(ERROR, SENT)
    assert (await world.call()).provider == "second"


# Trouble


async def test_traffic_goes_by_the_second_until_the_first_is_well_again(world: World) -> None:
    world.answers(BROKEN, SENT)
    await world.call()
    assert world.turn(7) == Turn(world.providers[1], 7, Priority.NORMAL)
    world.clock.now += 4.99
    assert world.turn().provider.name == "second"
    world.clock.now += 0.01
    world.answers(SENT, SENT)
    probe = world.turn(7)
    assert (probe.provider.name, probe.calls) == ("first", 1)
    assert world.turn(7).provider.name == "second"
    await world.chain.call(probe, email_delivery(), seconds_left=LEASE)
    assert world.turn(7) == Turn(world.providers[0], 7, Priority.NORMAL)


async def test_a_probe_that_fails_is_sent_by_the_next(world: World) -> None:
    world.answers(BROKEN, SENT)
    await world.call()
    world.clock.now += 5
    assert (await world.call()).provider == "second"
    assert world.made == [2, 2]


async def test_when_all_are_held_everybody_waits_for_the_soonest(world: World) -> None:
    world.answers(WAIT_20, BROKEN)
    await world.call()
    hold = world.chain.pick(5)
    assert hold == Hold(1005.0, "second: broken")


async def test_three_askers_and_one_probe() -> None:
    world = World(providers=1)
    world.answers(BROKEN)
    await world.call()
    world.clock.now += 5
    answers = [world.chain.pick(50) for _ in range(3)]
    assert [getattr(each, "calls", None) for each in answers] == [1, None, None]
    assert isinstance(answers[0], Turn)
    assert isinstance(answers[1], Hold)
    waiting = [asyncio.create_task(world.chain.wait(answers[1].until)) for _ in range(2)]
    await asyncio.sleep(0)
    world.chain.give_back(answers[0], 1)
    await asyncio.wait_for(asyncio.gather(*waiting), 1)
    again = [world.chain.pick(50) for _ in range(3)]
    assert [getattr(each, "calls", None) for each in again] == [1, None, None]
    # The one that was given back is worth nothing any more.
    stale = await world.chain.call(answers[0], email_delivery(), seconds_left=LEASE)
    assert (stale.outcome, stale.reason, world.made) == (Outcome.BROKEN, "held", [1])


async def test_a_cancelled_probe_is_given_back() -> None:
    world = World(providers=1)
    world.answers(BROKEN)
    await world.call()
    world.clock.now += 5
    world.providers[0].before = lambda: asyncio.sleep(30)
    probing = asyncio.create_task(world.call())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (world.made, type(world.chain.pick(1))) == ([2], Hold)
    probing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probing
    assert world.turn(9).calls == 1


async def test_calls_that_were_picked_before_the_trouble_are_not_made(world: World) -> None:
    """Between `pick` and the call a claim was written; meanwhile the provider asked to wait."""
    world = World(providers=1)
    turn = world.turn(3)
    world.answers(WAIT_20)
    await world.chain.call(turn, email_delivery(), seconds_left=LEASE)
    world.answers(SENT)
    result = await world.chain.call(turn, email_delivery(), seconds_left=LEASE)
    assert (result.outcome, result.reason, world.made) == (Outcome.BROKEN, "held", [1])


async def test_those_of_them_that_can_go_elsewhere_do(world: World) -> None:
    turn = world.turn(3)
    world.answers(WAIT_20, SENT)
    for _ in range(3):
        assert (await world.chain.call(turn, email_delivery(), seconds_left=LEASE)).provider == "second"
    assert world.made == [1, 3]


async def test_a_degraded_one_is_passed_over_and_probed_now_and_then(world: World) -> None:
    world.answers(ERROR, SENT)
    for _ in range(LEAST_CALLS):
        await world.call()
    assert world.condition("first") == "degraded"
    assert world.turn().provider.name == "second"
    world.clock.now += 5
    world.answers(SENT, SENT)
    assert world.turn(9).calls == 1
    world.chain.give_back(Turn(world.providers[0], 1, Priority.NORMAL), 1)  # not the probe's turn: nothing happens
    assert world.turn().provider.name == "second"


async def test_a_degraded_one_with_nobody_beside_it_is_called_for_every_attempt() -> None:
    world = World(providers=1)
    world.answers(ERROR)
    for _ in range(3 * LEAST_CALLS):
        assert (await world.call()).outcome is Outcome.RETRY
    assert (world.made, world.condition("first")) == ([3 * LEAST_CALLS], "degraded")


async def test_nothing_fails_over_to_a_degraded_one_but_what_nobody_else_takes() -> None:
    world = World(providers=2)
    world.answers(BROKEN, ERROR)
    for _ in range(LEAST_CALLS):
        await world.call()
    assert [world.condition(name) for name in ("first", "second")] == ["broken", "degraded"]
    world.clock.now += 4  # a bit less than until the probe of either
    made = world.made
    assert world.turn(9).provider.name == "second"
    world.clock.now += 1
    world.answers(ERROR, ERROR)
    first = world.turn(9)
    assert first.provider.name == "first"
    second = world.turn(9)
    assert (second.provider.name, second.calls) == ("second", 1)
    await world.chain.call(first, email_delivery(), seconds_left=LEASE)
    assert world.made == [made[0] + 1, made[1]]


async def test_an_outage_holds_and_hourly_jumps_of_the_wall_clock_change_nothing(world: World) -> None:
    world.answers(REFUSED, REFUSED)
    for _ in range(AWAY_IN_A_ROW):
        assert (await world.call()).outcome is Outcome.RETRY
    assert world.made == [AWAY_IN_A_ROW, AWAY_IN_A_ROW]
    assert world.chain.pick(1) == Hold(1001.0, "first: unreachable")


async def test_another_process_s_retry_after_is_kept_here_too_and_not_told_again(world: World) -> None:
    world.chain.hold("first", 20)
    assert (world.condition("first"), world.turn().provider.name, world.asked) == ("throttled", "second", [])
    world.chain.hold("nobody", 20)
    world.clock.now += 20
    assert world.turn().provider.name == "first"


async def test_a_retry_after_is_told_once(world: World) -> None:
    turn = world.turn(100)
    world.answers(WAIT_20, SENT)
    calls = [world.chain.call(turn, email_delivery(), seconds_left=LEASE) for _ in range(100)]
    await asyncio.gather(*calls)
    assert world.asked == [("first", 20.0)]


# Waking


async def test_waiting_ends_at_its_time(world: World) -> None:
    await asyncio.wait_for(world.chain.wait(world.clock.now + 0.01), 1)
    await asyncio.wait_for(world.chain.wait(0.0), 1)


@pytest.mark.parametrize("then", [SENT, BROKEN])
async def test_waiting_ends_with_the_probe(then: Answer) -> None:
    world = World(providers=1)
    world.answers(BROKEN)
    await world.call()
    world.clock.now += 5
    probe, hold = world.chain.pick(1), world.chain.pick(1)
    assert isinstance(probe, Turn)
    assert isinstance(hold, Hold)
    waiting = asyncio.create_task(world.chain.wait(hold.until))
    await asyncio.sleep(0)
    world.answers(then)
    await world.chain.call(probe, email_delivery(), seconds_left=LEASE)
    await asyncio.wait_for(waiting, 1)


async def test_ordinary_calls_wake_nobody(world: World) -> None:
    waiting = asyncio.create_task(world.chain.wait(world.clock.now + 60))
    for _ in range(20):
        await world.call()
    assert not waiting.done()
    waiting.cancel()


# Telling


async def test_changes_are_logged_once_and_fail_overs_by_ids_alone(world: World) -> None:
    turn = world.turn(50)
    world.answers(BROKEN, SENT)
    with capture_logs() as logs:
        for _ in range(50):
            await world.chain.call(turn, email_delivery(), seconds_left=LEASE)
        world.clock.now += 5
        await world.call()
        world.answers(SENT, SENT)
        world.clock.now += 10
        await world.call()
    told = [log for log in logs if log["event"] != "provider fail-over"]
    assert [(log["event"], log["log_level"], log.get("seconds")) for log in told] == [
        ("provider held", "warning", 5.0),
        ("provider still held", "info", 10.0),
        ("provider resumed", "info", None),
    ]
    assert {(log["provider"], log["detail"]) for log in told} == {("first", "401"), ("first", None)}
    fail_over = next(log for log in logs if log["event"] == "provider fail-over")
    assert set(fail_over) == {"event", "log_level", "delivery_id", "provider", "to", "outcome", "reason"}
    assert not [secret for secret in SECRETS if secret in repr(logs)]


async def test_states_are_told_by_the_wall_clock(world: World) -> None:
    world.clock.now += 60
    world.answers(BROKEN, SENT)
    await world.call()
    world.clock.now += 2
    assert world.chain.states() == {
        "first": {
            "state": "held",
            "reason": "broken",
            "detail": "401",
            "since": "2026-11-23T11:59:58+00:00",
            "until": "2026-11-23T12:00:03+00:00",
        },
        "second": {
            "state": "closed",
            "reason": None,
            "detail": None,
            "since": "2026-11-23T11:58:58+00:00",
            "until": None,
        },
    }


def gauge(provider: str) -> dict[str, float]:
    samples = next(metric for metric in REGISTRY.collect() if metric.name == "comms_provider_state").samples
    return {each.labels["state"]: each.value for each in samples if each.labels["provider"] == provider}


async def test_the_gauge_shows_one_state_also_while_it_is_probed(world: World) -> None:
    assert gauge("first") == {"closed": 1, "degraded": 0, "throttled": 0, "unreachable": 0, "broken": 0}
    world.answers(BROKEN, SENT)
    await world.call()
    world.clock.now += 5
    world.turn()
    assert gauge("first") == {"closed": 0, "degraded": 0, "throttled": 0, "unreachable": 0, "broken": 1}
    assert gauge("second")["closed"] == 1


def counted(provider: str, outcome: Outcome) -> float:
    labels = {"channel": "email", "provider": provider, "outcome": str(outcome)}
    return REGISTRY.get_sample_value("comms_deliveries_total", labels) or 0.0


async def test_each_provider_s_call_is_counted_under_its_own_name(world: World) -> None:
    before = counted("first", Outcome.RETRY), counted("second", Outcome.SENT)
    labels = {"channel": "email", "provider": "first", "to": "second"}
    fail_overs = REGISTRY.get_sample_value("comms_provider_fail_overs_total", labels) or 0.0
    world.answers(ERROR, SENT)
    await world.call()
    assert (counted("first", Outcome.RETRY), counted("second", Outcome.SENT)) == (before[0] + 1, before[1] + 1)
    assert REGISTRY.get_sample_value("comms_provider_fail_overs_total", labels) == fail_overs + 1


@pytest.mark.parametrize(("most_calls", "slots"), [(None, 400), (50, 200), (500, 400), (1, 4)])
def test_call_slots(most_calls: int | None, slots: int) -> None:
    chain = Chain(Channel.EMAIL, [Fake("p", Clock(), most_calls=most_calls)], settings())
    assert chain.call_slots == slots


@pytest.mark.parametrize("reach", list(Reach))
@pytest.mark.parametrize("outcome", list(Outcome))
def test_the_rule_of_fail_over(outcome: Outcome, reach: Reach) -> None:
    expected = outcome is Outcome.BROKEN or (outcome is Outcome.RETRY and reach not in (Reach.UNKNOWN, Reach.NOT_ASKED))
    assert was_certainly_not_taken(DeliveryResult(outcome=outcome, provider="p", reach=reach)) is expected


# Any interleaving


class Tangle:
    """Three lanes that pick, dawdle, call, give back, and providers that answer whenever they like."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.world = World(providers=2)
        self.asked_until = {"first": 0.0, "second": 0.0}
        self.pending: list[asyncio.Future[None]] = []
        self.probing = {"first": 0, "second": 0}
        self.wrong: list[str] = []
        for provider in self.world.providers:
            provider.before = partial(self._called, provider.name)
            provider.after = partial(self._answered, provider.name)

    async def _called(self, name: str) -> None:
        state = self.world.chain.states()[name]["state"]
        if self.world.clock.now < self.asked_until[name]:
            self.wrong.append(f"{name} was called before the end of its Retry-After")
        if state == "held":
            self.wrong.append(f"{name} was called while it is held")
        if state == "half-open":
            self.probing[name] += 1
            if self.probing[name] > 1:
                self.wrong.append(f"{name} was probed by two at a time")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.pending.append(future)
        await future
        if state == "half-open":
            self.probing[name] -= 1

    def _answered(self, name: str, answer: Answer) -> None:
        if answer is WAIT_20:
            self.asked_until[name] = max(self.asked_until[name], self.world.clock.now + 20)

    async def run(self, steps: int) -> None:
        calls: list[asyncio.Task[DeliveryResult]] = []
        for _ in range(steps):
            for provider in self.world.providers:
                provider.answer = self.random.choice([SENT, SENT, SENT, ERROR, REFUSED, TIMEOUT, BROKEN, WAIT_20])
            calls += self._lane()
            self._answer_some()
            self.world.clock.now += self.random.choice([0.0, 0.0, 0.3, 1.0, 5.0, 7.0])
            await asyncio.sleep(0)
        while not all(call.done() for call in calls):
            self._answer_some()
            await asyncio.sleep(0)
        assert self.wrong == []

    def _lane(self) -> Iterator[asyncio.Task[DeliveryResult]]:
        turn = self.world.chain.pick(self.random.randint(1, 15))
        if isinstance(turn, Turn):
            made = self.random.randint(0, turn.calls)
            self.world.chain.give_back(turn, turn.calls - made)
            for _ in range(made):
                yield asyncio.create_task(self._call(turn, self.random.randint(0, 3)))

    async def _call(self, turn: Turn, dawdling: int) -> DeliveryResult:
        for _ in range(dawdling):  # for its claim
            await asyncio.sleep(0)
        return await self.world.chain.call(turn, email_delivery(), seconds_left=LEASE)

    def _answer_some(self) -> None:
        self.random.shuffle(self.pending)
        for _ in range(self.random.randint(0, len(self.pending))):
            future = self.pending.pop()
            if not future.done():
                future.set_result(None)


@given(seed=st.integers(0, 2**32))
@hypothesis_settings(max_examples=100, deadline=None)
def test_no_interleaving_calls_a_provider_before_its_time(seed: int) -> None:
    with capture_logs():
        asyncio.run(Tangle(seed).run(40))


async def _until(event: asyncio.Event) -> None:
    await event.wait()
