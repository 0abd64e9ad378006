"""What every provider promises, tested against an honest counterpart.

A new provider adds one subclass: fixtures `counterpart` and `provider`, a table `FAILURES`, and what is its own.
"""

from __future__ import annotations

import asyncio
from typing import ClassVar, Protocol

import pytest
from structlog.testing import capture_logs

from models.deliveries import Delivery
from models.enums import Outcome
from streams.providers.base import DeliveryStatus, NotificationProvider, Reach
from tests.contracts.deliveries import SECRETS


class Counterpart(Protocol):
    """The other side: takes messages, and misbehaves on command."""

    def taken(self) -> list[str]:
        """The delivery ids of what it took, in order, repeats included."""
        ...

    def misbehave(self, how: str) -> None:
        """From now on, or until `behave`, answers like that."""
        ...

    def behave(self) -> None:
        """Takes messages again."""
        ...

    async def stop(self) -> None:
        """Goes away: connections are refused."""
        ...


class ProviderContract:
    """Subclass it as `Test…` and give it the two fixtures."""

    #: What the counterpart can do wrong, and the outcome it must be taken for.
    FAILURES: ClassVar[dict[str, Outcome]]
    #: The failure that never answers; None where there is none.
    HANG: ClassVar[str | None] = "hang"
    #: Those of the failures that mean that nobody is served now; the others are answers. Refused accounts are left out.
    AWAY: ClassVar[frozenset[str]] = frozenset()

    def delivery(self) -> Delivery:
        """A new delivery of the provider's channel."""
        raise AssertionError("a subclass says which")

    async def test_takes_a_message_once(self, provider: NotificationProvider, counterpart: Counterpart) -> None:
        delivery = self.delivery()
        result = await provider.send(delivery)
        assert result.outcome is Outcome.SENT, result
        assert result.provider == provider.name
        assert result.provider_message_id
        assert counterpart.taken() == [str(delivery.delivery_id)]

    async def test_takes_many_at_once(self, provider: NotificationProvider, counterpart: Counterpart) -> None:
        deliveries = [self.delivery() for _ in range(60)]
        results = await asyncio.gather(*(provider.send(delivery) for delivery in deliveries))
        assert {result.outcome for result in results} == {Outcome.SENT}
        assert sorted(counterpart.taken()) == sorted(str(delivery.delivery_id) for delivery in deliveries)

    async def test_names_the_outcome_of_each_failure(
        self, provider: NotificationProvider, counterpart: Counterpart
    ) -> None:
        for how, outcome in self.FAILURES.items():
            counterpart.misbehave(how)
            result = await provider.send(self.delivery())
            assert (how, result.outcome, result.provider) == (how, outcome, provider.name)
            assert result.reason, how
            counterpart.behave()
            after = await provider.send(self.delivery())
            assert (how, after.outcome) == (how, Outcome.SENT)

    async def test_tells_nothing_of_content_addresses_and_keys(
        self, provider: NotificationProvider, counterpart: Counterpart
    ) -> None:
        with capture_logs() as logs:
            for how in self.FAILURES:
                counterpart.misbehave(how)
                told = repr(await provider.send(self.delivery()))
                assert not [secret for secret in SECRETS if secret in told], how
        assert not [secret for secret in SECRETS if secret in repr(logs)]

    async def test_is_retry_while_the_vendor_is_away(
        self, provider: NotificationProvider, counterpart: Counterpart
    ) -> None:
        await counterpart.stop()
        result = await provider.send(self.delivery())
        assert (result.outcome, result.reach) == (Outcome.RETRY, Reach.AWAY)

    async def test_tells_an_outage_from_an_answer(
        self, provider: NotificationProvider, counterpart: Counterpart
    ) -> None:
        for how, outcome in self.FAILURES.items():
            if outcome is Outcome.BROKEN:
                continue
            counterpart.misbehave(how)
            result = await provider.send(self.delivery())
            assert (how, result.reach) == (how, Reach.AWAY if how in self.AWAY else Reach.ANSWERED)
            counterpart.behave()
            after = await provider.send(self.delivery())
            assert (how, after.reach) == (how, Reach.ANSWERED)

    async def test_a_cancelled_send_spoils_nothing(
        self, provider: NotificationProvider, counterpart: Counterpart
    ) -> None:
        if self.HANG is None:
            return
        counterpart.misbehave(self.HANG)
        hanging = asyncio.ensure_future(provider.send(self.delivery()))
        await asyncio.wait({hanging}, timeout=0.1)
        hanging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await hanging
        counterpart.behave()
        before = len(counterpart.taken())
        results = await asyncio.gather(*(provider.send(self.delivery()) for _ in range(10)))
        assert {result.outcome for result in results} == {Outcome.SENT}
        assert len(counterpart.taken()) - before == 10

    async def test_closes_twice_and_opens_again(self, provider: NotificationProvider) -> None:
        await provider.close()
        await provider.close()
        await provider.open()
        assert (await provider.send(self.delivery())).outcome is Outcome.SENT

    async def test_answers_for_a_message_of_old(self, provider: NotificationProvider) -> None:
        assert isinstance(await provider.get_status("some-id"), DeliveryStatus)
