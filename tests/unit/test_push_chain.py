"""One delivery over the devices of two platforms: who is called, what is paid, and what a platform in trouble costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome, Priority
from models.requests import Device, Options
from models.settings import Settings
from streams.channels.chain import Hold, Turn
from streams.channels.pace import Unpaced
from streams.channels.push import PushChain
from streams.providers.base import DeliveryResult, NotificationProvider, Reach, UnsupportedFeature
from streams.rate_limits import Grant

SETTINGS = Settings(database_url="postgresql://none/none", provider_timeout_seconds=2)
SENT, RETRY, DEAD, BROKEN = Outcome.SENT, Outcome.RETRY, Outcome.TARGET_DEAD, Outcome.BROKEN

Answer = Callable[[str], Outcome]


@dataclass
class Vendor(NotificationProvider):
    """Answers by token."""

    channel = Channel.PUSH
    answer: Answer = lambda token: SENT
    retry_after: timedelta | None = None
    calls: list[Delivery] = field(default_factory=list)

    async def send(self, delivery: Delivery) -> DeliveryResult:
        [device] = delivery.devices
        assert device.platform == self.name
        self.calls.append(delivery)
        await asyncio.sleep(0)
        outcome = self.answer(device.token)
        return DeliveryResult(
            outcome=outcome,
            provider=self.name,
            provider_message_id=device.token if outcome is SENT else None,
            reason=None if outcome is SENT else str(outcome),
            retry_after=self.retry_after if outcome is RETRY else None,
            reach=Reach.AWAY if self.retry_after and outcome is RETRY else Reach.ANSWERED,
        )

    @property
    def tokens(self) -> list[str]:
        return [delivery.devices[0].token for delivery in self.calls]


class Fcm(Vendor):
    name: ClassVar[str] = "fcm"
    own_options: ClassVar[frozenset[str]] = frozenset({"android"})


class Apns(Vendor):
    name: ClassVar[str] = "apns"
    own_options: ClassVar[frozenset[str]] = frozenset({"aps"})


def delivery(*tokens: str, **fields: Any) -> Delivery:
    """Tokens by platform, as in `fcm:1`."""
    devices = (token.split(":") for token in tokens)
    return Delivery(
        **{
            "delivery_id": uuid4(),
            "notification_id": uuid4(),
            "user_id": "u-1",
            "channel": Channel.PUSH,
            "category": "general",
            "devices": tuple(Device(platform=platform, token=f"{platform}:{rest}") for platform, rest in devices),
            "content": {"title": "Hi", "body": "Hello"},
            "created_at": datetime.now(UTC),
            **fields,
        }
    )


async def send(chain: PushChain, asked: Delivery, seconds_left: float = 10.0) -> DeliveryResult:
    turn = chain.pick(1)
    assert isinstance(turn, Turn)
    return await chain.call(turn, asked, seconds_left=seconds_left)


async def test_each_device_is_called_once_by_its_platform() -> None:
    fcm, apns = Fcm(), Apns()
    result = await send(PushChain([fcm, apns], SETTINGS), delivery("apns:1", "fcm:1", "apns:2"))
    assert (fcm.tokens, apns.tokens) == (["fcm:1"], ["apns:1", "apns:2"])
    assert (result.outcome, result.provider, result.provider_message_id) == (SENT, "apns", "apns:1")
    assert result.fan_out is not None
    assert (result.fan_out.remaining, result.fan_out.reached) == (0, 3)


async def test_results_keep_the_order_of_the_devices() -> None:
    answers = {"fcm:1": RETRY, "fcm:2": SENT, "apns:1": DEAD, "apns:2": RETRY}
    chain = PushChain([Fcm(answers.__getitem__), Apns(answers.__getitem__)], SETTINGS)
    result = await send(chain, delivery("apns:1", "fcm:1", "apns:2", "fcm:2"))
    assert result.fan_out is not None
    assert (result.outcome, result.fan_out.remaining, result.fan_out.reached) == (RETRY, 0b0110, 1)
    assert [dead.token for dead in result.fan_out.dead] == ["apns:1"]


async def test_one_device_costs_nothing_more() -> None:
    fcm = Fcm()
    asked = delivery("fcm:1")
    result = await send(PushChain([fcm], SETTINGS), asked)
    assert (result.outcome, result.fan_out) == (SENT, None)
    assert fcm.calls[0] is asked


async def test_a_device_without_a_provider_fails_alone() -> None:
    both = await send(PushChain([Fcm()], SETTINGS), delivery("fcm:1", "apns:1"))
    assert (both.outcome, both.reason) == (SENT, "1 of 2 devices: no_provider")
    alone = await send(PushChain([Fcm()], SETTINGS), delivery("apns:1"))
    assert (alone.outcome, alone.reason, alone.reach) == (Outcome.PERMANENT, "no_provider", Reach.NOT_ASKED)
    none = await send(PushChain([], SETTINGS), delivery("apns:1", "fcm:1"))
    assert none.outcome is Outcome.PERMANENT
    nobody = await send(PushChain([Fcm()], SETTINGS), delivery())
    assert (nobody.outcome, nobody.reason) == (Outcome.PERMANENT, "no_address")


async def test_a_broken_platform_holds_up_its_own_devices_only() -> None:
    fcm, apns = Fcm(lambda _: BROKEN), Apns()
    chain = PushChain([fcm, apns], SETTINGS)
    first = await send(chain, delivery("fcm:1", "apns:1"))
    assert first.fan_out is not None
    assert (first.outcome, first.fan_out.remaining, first.fan_out.is_try) == (RETRY, 0b01, False)
    assert first.retry_after is not None
    calls = len(fcm.calls)
    others = await asyncio.gather(*(send(chain, delivery(f"apns:{number}")) for number in range(20)))
    assert {result.outcome for result in others} == {SENT}
    waiting = await send(chain, delivery("fcm:2"))
    assert (waiting.outcome, waiting.fan_out, len(fcm.calls)) == (BROKEN, None, calls)
    assert waiting.retry_after is not None
    assert waiting.retry_after >= timedelta(seconds=1)


async def test_with_all_platforms_held_the_lane_waits_for_the_first() -> None:
    now = [100.0]
    fcm, apns = Fcm(lambda _: BROKEN), Apns(lambda _: RETRY, retry_after=timedelta(seconds=5))
    chain = PushChain([fcm, apns], SETTINGS, lambda: now[0])
    await send(chain, delivery("fcm:1", "apns:1"))
    held = chain.pick(1)
    assert isinstance(held, Hold)
    assert 100 < held.until <= 105
    fcm.answer = apns.answer = lambda _: SENT
    now[0] = 200
    assert (await send(chain, delivery("fcm:2", "fcm:3", "apns:2", "apns:3"))).outcome is SENT
    assert isinstance(chain.pick(1), Turn)
    assert {state["state"] for state in chain.states().values()} == {"closed"}


async def test_a_probe_goes_first_and_the_others_follow() -> None:
    now = [100.0]
    fcm = Fcm(lambda _: BROKEN)
    chain = PushChain([fcm], SETTINGS, lambda: now[0])
    assert (await send(chain, delivery("fcm:1", "fcm:2", "fcm:3"))).outcome is BROKEN
    now[0], before = 200, len(fcm.calls)
    assert (await send(chain, delivery("fcm:1", "fcm:2", "fcm:3"))).outcome is BROKEN
    assert len(fcm.calls) == before + 1, "nobody follows a probe that failed"
    now[0], fcm.answer = 400, lambda _: SENT
    result = await send(chain, delivery("fcm:1", "fcm:2", "fcm:3"))
    assert result.fan_out is not None
    assert result.fan_out.reached == 3


async def test_a_probe_whose_platform_is_not_asked_is_given_back() -> None:
    now = [100.0]
    fcm, apns = Fcm(lambda _: BROKEN), Apns(lambda _: BROKEN)
    chain = PushChain([fcm, apns], SETTINGS, lambda: now[0])
    await send(chain, delivery("fcm:1", "apns:1"))
    now[0] = 200
    fcm.answer = apns.answer = lambda _: SENT
    assert (await send(chain, delivery("apns:2"))).outcome is SENT
    assert (await send(chain, delivery("fcm:2"))).outcome is SENT


async def test_waiting_ends_when_any_platform_recovers() -> None:
    chain = PushChain([Fcm(), Apns(lambda _: BROKEN)], SETTINGS)
    waiting = asyncio.ensure_future(chain.wait(float("inf")))
    await asyncio.sleep(0)
    await send(chain, delivery("apns:1"))
    await asyncio.wait_for(waiting, 2)
    chain.hold("fcm", 30)
    assert isinstance(chain.pick(1), Hold)


async def test_options_of_the_other_platform_are_left_out_and_unknown_ones_are_not() -> None:
    fcm, apns = Fcm(), Apns()
    chain = PushChain([fcm, apns], SETTINGS)
    asked = delivery("fcm:1", "apns:1", options=Options(provider={"android": {"a": 1}, "aps": {"b": 2}, "asm": {}}))
    await send(chain, asked)
    assert [each.calls[0].options.provider for each in (fcm, apns)] == [
        {"android": {"a": 1}, "asm": {}},
        {"aps": {"b": 2}, "asm": {}},
    ]


async def test_what_a_vendor_cannot_do_is_final_for_its_device() -> None:
    def refuses(_: str) -> Outcome:
        raise UnsupportedFeature("options.provider.asm", "fcm")

    result = await send(PushChain([Fcm(refuses), Apns()], SETTINGS), delivery("fcm:1", "apns:1"))
    assert (result.outcome, result.reason) == (SENT, "1 of 2 devices: invalid options.provider.asm")


class Counted(Unpaced):
    """A purse of tokens for each provider."""

    def __init__(self, **purse: int) -> None:
        self.purse = purse

    async def take(self, channel: Channel, provider: str, priority: Priority, wanted: int) -> Grant:
        granted = min(wanted, self.purse[provider])
        self.purse[provider] -= granted
        return Grant(granted, 0.0 if granted else 0.01)

    async def give_back(self, channel: Channel, provider: str, count: int) -> None:
        self.purse[provider] += count


async def take_and_send(chain: PushChain, limits: Counted, asked: Delivery, seconds_left: float) -> DeliveryResult:
    """As a lane does, which pays for one call."""
    turn = chain.pick(1)
    assert isinstance(turn, Turn)
    assert (await limits.take(Channel.PUSH, turn.provider.name, Priority.NORMAL, 1)).granted == 1
    return await chain.call(turn, asked, seconds_left=seconds_left)


@pytest.mark.parametrize(
    ("tokens", "left"),
    [
        (["fcm:1"], {"fcm": 9, "apns": 10}),
        (["apns:1"], {"fcm": 10, "apns": 9}),
        (["fcm:1", "fcm:2", "apns:1"], {"fcm": 8, "apns": 9}),
    ],
)
async def test_each_call_is_paid_for_once(tokens: list[str], left: dict[str, int]) -> None:
    limits = Counted(fcm=10, apns=10)
    chain = PushChain([Fcm(), Apns()], SETTINGS, limits=limits)
    await take_and_send(chain, limits, delivery(*tokens), 10)
    assert limits.purse == left


async def test_devices_wait_for_their_tokens_as_long_as_the_lease_allows() -> None:
    limits = Counted(fcm=1, apns=0)
    fcm = Fcm()
    chain = PushChain([fcm], SETTINGS, limits=limits)
    short = await take_and_send(chain, limits, delivery("fcm:1", "fcm:2"), 2.5)
    assert short.fan_out is not None
    assert (short.fan_out.remaining, short.fan_out.reached, short.fan_out.is_try) == (0b10, 1, False)
    limits.purse["fcm"] = 1
    sending = asyncio.ensure_future(take_and_send(chain, limits, delivery("fcm:1", "fcm:2"), 10))
    await asyncio.sleep(0.03)
    limits.purse["fcm"] = 1
    result = await asyncio.wait_for(sending, 5)
    assert result.fan_out is not None
    assert result.fan_out.reached == 2
