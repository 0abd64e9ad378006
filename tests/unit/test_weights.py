"""Traffic shared by weight: exact shares, moved by failures and slowness, with a trickle for who is in trouble."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.enums import Channel, Outcome
from models.errors import Refused
from models.settings import Settings, load_settings
from streams.channels.chain import Chain, Hold, Turn
from streams.channels.weights import FLOOR, HALF_LIFE_SECONDS, Shares, Standing, Track, effective
from tests.contracts.deliveries import email_delivery, settings
from tests.unit.test_provider_chain import BROKEN, ERROR, LACKING, LEASE, SENT, WAIT_20, WALL, Answer, Clock, Fake


def dealt(shares: Mapping[str, float], turns: int, wanted: int = 1) -> Counter[str]:
    """Calls by name after so many turns."""
    found: Counter[str] = Counter()
    dealer = Shares()
    for _ in range(turns):
        name, calls = dealer.deal(shares, wanted)
        assert 1 <= calls <= wanted
        found[name] += calls
    return found


# Dealing


def test_shares_are_exact_call_by_call() -> None:
    assert dealt({"a": 0.7, "b": 0.3}, 1000) == {"a": 700, "b": 300}
    assert dealt({"a": 0.5, "b": 0.25, "c": 0.25}, 400) == {"a": 200, "b": 100, "c": 100}


def test_calls_take_turns_instead_of_coming_in_rows() -> None:
    dealer = Shares()
    assert [dealer.deal({"a": 0.75, "b": 0.25}, 1)[0] for _ in range(8)] == ["a", "a", "b", "a", "a", "a", "b", "a"]


def test_a_turn_is_no_larger_than_what_its_provider_is_owed() -> None:
    dealer = Shares()
    shares = {"a": 0.7, "b": 0.3}
    assert dealer.deal(shares, 100) == ("a", 70)
    assert dealer.deal(shares, 30) == ("b", 30)


def test_who_comes_back_is_not_owed_what_it_missed() -> None:
    dealer = Shares()
    both = {"a": 0.5, "b": 0.5}
    dealer.deal(both, 100)
    for _ in range(100):
        dealer.deal({"a": 1.0}, 100)
    found: Counter[str] = Counter()
    for _ in range(100):
        name, calls = dealer.deal(both, 1)
        found[name] += calls
    assert found == {"a": 50, "b": 50}


@given(
    weights=st.lists(st.floats(0.01, 100), min_size=1, max_size=4),
    wants=st.lists(st.integers(1, 128), min_size=1, max_size=200),
)
def test_nobody_is_ever_further_from_its_share_than_a_turn(weights: list[float], wants: list[int]) -> None:
    shares = {str(place): weight / sum(weights) for place, weight in enumerate(weights)}
    dealer, found, total = Shares(), dict.fromkeys(shares, 0), 0
    for wanted in wants:
        name, calls = dealer.deal(shares, wanted)
        assert 1 <= calls <= wanted
        found[name] += calls
        total += calls
        assert all(abs(found[each] - total * share) <= 128 for each, share in shares.items())


# What moves the shares


def shares_of(**standings: Standing) -> dict[str, float]:
    return {name: round(share, 3) for name, share in effective(standings).items()}


def test_without_evidence_weights_are_shares() -> None:
    assert shares_of(a=Standing(weight=70), b=Standing(weight=30)) == {"a": 0.7, "b": 0.3}


def test_failures_cost_the_third_power() -> None:
    found = shares_of(a=Standing(weight=1, success=0.5), b=Standing(weight=1))
    assert found == {"a": round(0.125 / 1.125, 3), "b": round(1 / 1.125, 3)}


def test_up_to_twice_as_slow_costs_nothing_and_beyond_costs_in_proportion() -> None:
    fast = Standing(weight=1, seconds=0.1, timed_calls=1e6)
    assert shares_of(a=fast, b=Standing(weight=1, seconds=0.2, timed_calls=1e6)) == {"a": 0.5, "b": 0.5}
    assert shares_of(a=fast, b=Standing(weight=1, seconds=0.8, timed_calls=1e6)) == {"a": 0.8, "b": 0.2}


def test_what_is_fast_enough_is_not_compared() -> None:
    fast = Standing(weight=1, seconds=0.001, timed_calls=1e6)
    assert shares_of(a=fast, b=Standing(weight=1, seconds=0.1, timed_calls=1e6)) == {"a": 0.5, "b": 0.5}


def test_one_slow_call_proves_little() -> None:
    found = effective(
        {
            "a": Standing(weight=1, seconds=0.1, timed_calls=100),
            "b": Standing(weight=1, seconds=1.0, timed_calls=1),
        }
    )
    assert found["b"] == pytest.approx(0.5)


def test_whoever_has_a_weight_keeps_a_trickle() -> None:
    found = effective(
        {"a": Standing(weight=1), "b": Standing(weight=1, success=0.0, seconds=9.0, timed_calls=1e3)},
    )
    assert found["b"] == pytest.approx(FLOOR / (1 + FLOOR))


def test_evidence_fades() -> None:
    clock = Clock()
    track = Track(clock)
    for _ in range(90):
        track.note(Outcome.RETRY, 5.0)
    assert track.standing(1).success == pytest.approx(0.1)
    clock.now += HALF_LIFE_SECONDS
    assert track.standing(1).success == pytest.approx(10 / 55)
    clock.now += 10 * HALF_LIFE_SECONDS
    assert track.standing(1).success > 0.99


def test_only_what_takes_as_long_as_the_provider_takes_is_timed() -> None:
    track = Track(Clock())
    for outcome in (Outcome.RETRY, Outcome.PERMANENT, Outcome.TARGET_DEAD, Outcome.BROKEN):
        track.note(outcome, 0.001)
    track.note(Outcome.SENT, 0.2)
    track.note(Outcome.AMBIGUOUS, 10.0)
    found = track.standing(1)
    assert (found.timed_calls, found.seconds) == (2, pytest.approx(5.1))


def test_a_final_no_says_nothing_of_the_provider() -> None:
    track = Track(Clock())
    for _ in range(50):
        track.note(Outcome.PERMANENT, 0.1)
        track.note(Outcome.TARGET_DEAD, 0.1)
    assert track.standing(1).success == 1


# In a chain


class World:
    """Three providers; the third has no weight."""

    def __init__(self, **weights: float) -> None:
        self.clock = Clock()
        self.providers = {name: Fake(name, self.clock) for name in ("first", "second", "third")}
        given = settings().model_copy(update={"email_weights": weights})
        self.chain = Chain(Channel.EMAIL, list(self.providers.values()), given, self.clock, wall_clock=lambda: WALL)

    def turn(self, wanted: int = 1) -> Turn:
        turn = self.chain.pick(wanted)
        assert isinstance(turn, Turn), turn
        return turn

    def picked(self, turns: int, wanted: int = 1) -> Counter[str]:
        found: Counter[str] = Counter()
        for _ in range(turns):
            turn = self.turn(wanted)
            found[turn.provider.name] += turn.calls
        return found

    async def call(self, times: int = 1) -> None:
        for _ in range(times):
            await self.chain.call(self.turn(), email_delivery(), seconds_left=LEASE)

    def answers(self, **answers: Answer) -> None:
        for name, answer in answers.items():
            self.providers[name].answer = answer

    @property
    def made(self) -> dict[str, int]:
        return {name: len(provider.calls) for name, provider in self.providers.items()}


async def test_a_chain_shares_calls_by_weight() -> None:
    world = World(first=3, second=1)
    await world.call(100)
    assert world.made == {"first": 75, "second": 25, "third": 0}


def test_large_turns_are_shared_by_calls() -> None:
    found = World(first=70, second=30).picked(2000, wanted=128)
    assert found["first"] / found.total() == pytest.approx(0.7, abs=0.001)
    assert found["third"] == 0


def test_without_weights_all_goes_to_the_first() -> None:
    world = World()
    assert world.picked(10, wanted=100) == {"first": 1000}
    assert "share" not in world.chain.states()["first"]


async def test_a_weight_of_nothing_is_for_fail_over_only() -> None:
    world = World(first=0, second=1)
    assert world.picked(5, wanted=100) == {"second": 500}
    world.answers(second=BROKEN)
    await world.call()
    assert world.made == {"first": 1, "second": 1, "third": 0}
    assert world.turn(100).provider.name == "first"


async def test_who_is_held_gets_nothing_and_the_others_share_the_rest() -> None:
    world = World(first=2, second=1, third=1)
    world.answers(first=WAIT_20)
    await world.call()
    assert world.picked(100) == {"second": 50, "third": 50}
    world.clock.now += 19.9
    assert world.picked(100) == {"second": 50, "third": 50}
    world.clock.now += 0.1
    probe = world.turn(100)
    assert (probe.provider.name, probe.calls) == ("first", 1)
    assert world.picked(100) == {"second": 50, "third": 50}


async def test_a_message_goes_on_along_the_chain_whoever_was_asked_first() -> None:
    world = World(second=1)
    world.answers(second=ERROR)
    result = await world.chain.call(world.turn(), email_delivery(), seconds_left=LEASE)
    assert (result.provider, result.outcome) == ("first", Outcome.SENT)


async def test_traffic_moves_away_from_failures_and_comes_back() -> None:
    world = World(first=1, second=1)
    world.answers(first=ERROR)
    await world.call(60)
    assert world.chain.states()["first"]["state"] == "closed"
    while_failing = world.picked(1000)
    assert 0 < while_failing["first"] < 250
    world.answers(first=SENT)
    world.clock.now += 10 * HALF_LIFE_SECONDS
    await world.call(50)
    assert world.picked(1000)["first"] == pytest.approx(500, abs=5)


async def test_an_option_that_a_provider_lacks_does_not_cost_it_its_share() -> None:
    world = World(first=1, second=1)
    world.answers(first=LACKING)
    await world.call(50)
    assert world.picked(100) == {"first": 50, "second": 50}


async def test_when_nobody_can_be_called_the_chain_holds() -> None:
    world = World(first=1, second=1)
    world.answers(first=BROKEN, second=BROKEN, third=BROKEN)
    await world.call()
    hold = world.chain.pick(10)
    assert isinstance(hold, Hold)
    assert hold.until == world.clock.now + 5


async def test_states_tell_the_share() -> None:
    world = World(first=3, second=1)
    shares = {name: state["share"] for name, state in world.chain.states().items()}
    assert shares == {"first": 0.75, "second": 0.25, "third": 0.0}
    world.answers(first=BROKEN)
    while not world.providers["first"].calls:
        await world.call()
    shares = {name: state["share"] for name, state in world.chain.states().items()}
    assert shares == {"first": 0.0, "second": 1.0, "third": 0.0}


def test_slow_answers_move_traffic() -> None:
    world = World(first=1, second=1)
    link = world.chain._links[0]
    for _ in range(500):
        link.count(Outcome.SENT, 2.0)
        world.chain._links[1].count(Outcome.SENT, 0.1)
    assert world.picked(1000)["first"] < 150


# Settings


def test_a_weight_of_somebody_who_is_not_in_the_chain_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://x/x")
    monkeypatch.setenv("EMAIL_PROVIDERS", "sendgrid,smtp")
    monkeypatch.setenv("EMAIL_WEIGHTS", "sendgrid=70,ses=30")
    with pytest.raises(Refused, match="EMAIL_WEIGHTS: ses is not in the chain"):
        load_settings()


def test_weights_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://x/x")
    monkeypatch.setenv("SMS_PROVIDERS", "twilio,sns")
    monkeypatch.setenv("SMS_WEIGHTS", "twilio=70, sns=30")
    given: Settings = load_settings()
    assert given.weights(Channel.SMS) == {"twilio": 70, "sns": 30}
    assert given.weights(Channel.PUSH) == {}
