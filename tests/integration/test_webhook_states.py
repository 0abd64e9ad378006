"""Every case of webhook_cases.json from the door to the end: the delivery's state, the lists, and nothing twice."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.ids import delivery_id
from streams.providers.base import DeliveryResult
from streams.queues import UNMATCHED_EVENTS
from tests.fixtures.api import RunningApi, an_api
from tests.fixtures.service import Ledger, Service, a_request, a_service
from tests.fixtures.stack import Databases, Identity
from tests.fixtures.webhooks import CASES, Ids, Posted, callback_settings, posted, sendgrid_headers

LANES = {"requests-normal", "send-email-normal", "send-sms-normal", "provider-events", "outbox"}
CHANNELS = {"sendgrid": "email", "ses-sns": "email", "twilio": "sms"}
_numbers = itertools.count(10_000_000)


@dataclass(frozen=True)
class Ends:
    """What a case comes to: the delivery's status, and (reason, category) of the address on the list."""

    status: str
    listed: tuple[str, str] | None = None
    #: Cases that are posted before it.
    behind: tuple[str, ...] = ()
    #: Events that are stored in the end, repeats left out.
    stored: int = 1


ENDS: dict[str, Ends] = {
    "sg-ok-04": Ends("bounced", ("bounced", "")),
    "sg-ok-09": Ends("sent", ("unsubscribed", "general")),
    "sg-ok-10": Ends("sent", behind=("sg-ok-09",), stored=2),
    "sg-ok-11": Ends("opened"),
    "sg-batch-01": Ends("opened", stored=3),
    "sg-dup-01": Ends("delivered"),
    "tw-ok-03": Ends("delivered"),
    "tw-ok-04": Ends("failed"),
    "tw-ok-05": Ends("failed"),
    "tw-ok-06": Ends("failed"),
    "tw-ok-07": Ends("failed", ("opted_out", ""), stored=2),
    "tw-ok-08": Ends("cancelled"),
    "tw-ok-09": Ends("opened"),
    "tw-ok-10": Ends("sent"),
    "tw-optout-stopall50": Ends("sent", ("opted_out", "")),
    "tw-optout-end51": Ends("sent", ("opted_out", "")),
    "tw-order": Ends("delivered", behind=("tw-ok-03",), stored=2),
    "tw-dup": Ends("delivered"),
    "tw-empty-param": Ends("delivered"),
    "tw-unicode": Ends("sent", stored=0),
    "tw-extra": Ends("delivered"),
    "ses-ok-05": Ends("bounced", ("bounced", ""), stored=2),
    "ses-ok-10": Ends("sent"),
}
FORGED = [name for name, case in CASES.items() if case["kind"] == "forged"]


@dataclass
class Vendors:
    """Takes everything, in the name of the vendor that a message was made for."""

    #: By person: vendor and its message id.
    ids: dict[str, tuple[str, str]] = field(default_factory=dict)

    def answer(self, delivery: Delivery) -> DeliveryResult:
        provider, message_id = self.ids[delivery.user_id]
        return DeliveryResult(outcome=Outcome.SENT, provider=provider, provider_message_id=message_id)


class Texts(Ledger):
    channel = Channel.SMS


@dataclass
class World:
    """The door, the lanes behind it, and messages to tell about."""

    api: RunningApi
    vendors: Vendors

    @property
    def service(self) -> Service:
        return self.api.service

    async def message(self, vendor: str) -> Ids:
        """A message that this vendor has taken."""
        number = next(_numbers)
        request = a_request(f"u-{number}", channel=CHANNELS[vendor])
        phone = f"+49151{number}"
        request["recipient"] = {"email": f"u-{number}@example.com", "phone": phone}
        if vendor == "twilio":
            request["content"] = {"text": "Hello"}
        ids = Ids(UUID(request["id"]), address=request["recipient"]["email"], phone=phone)
        name = {"ses-sns": "ses"}.get(vendor, vendor)
        self.vendors.ids[request["user_id"]] = name, {"ses": ids.ses_message_id, "twilio": ids.sid}.get(name, ids.word)
        await self.service.publish(request)
        await self.service.until(ids.notification_id, "sent")
        return ids

    async def post(self, made: Posted) -> int:
        answer = await self.api.client("nobody").post(made.target, content=made.body, headers=made.headers)
        return answer.status_code

    async def status(self, ids: Ids) -> str:
        (row,) = await self.service.fetch(
            "SELECT status FROM notification_deliveries WHERE notification_id = :id", id=ids.notification_id
        )
        return str(row.status)

    async def stored(self, ids: Ids, count: int, *, within_seconds: float = 15.0) -> None:
        """Waits until so many of its events are stored."""
        async with asyncio.timeout(within_seconds):
            while len(await self.events(ids)) < count:
                await asyncio.sleep(0.02)

    async def events(self, ids: Ids) -> list[Any]:
        return await self.service.fetch(
            "SELECT event_id, retry_at FROM provider_events "
            "WHERE delivery_id = ANY(:known) OR strpos(event_id, :word) > 0",
            known=[delivery_id(ids.notification_id, channel) for channel in Channel],
            word=ids.word,
        )

    async def listed(self, ids: Ids) -> set[tuple[str, str]]:
        rows = await self.service.fetch(
            "SELECT reason, category FROM unsubscribe_lists WHERE address IN (:email, :phone)",
            email=ids.address,
            phone=ids.phone,
        )
        return {(row.reason, row.category) for row in rows}

    async def told(self, ids: Ids) -> list[str]:
        """The statuses that were told, in order."""
        records = await self.service.records("notification.status", count=1)
        values = [orjson.loads(record.value) for record in records]
        return [value["status"] for value in values if value["notification_id"] == str(ids.notification_id)]


@pytest.fixture(scope="module")
async def world(
    kafka: str,
    postgres: Databases,
    migrated: str,
    valkey: str,
    identity: Identity,
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[World]:
    more = callback_settings(tmp_path_factory.mktemp("certificates"))
    vendors = Vendors()
    providers = {Channel.EMAIL: (Ledger(vendors.answer),), Channel.SMS: (Texts(vendors.answer),)}
    async with (
        a_service(kafka, postgres, migrated, valkey, **more) as service,
        service.worker(providers=providers, only=LANES),
        an_api(service, identity) as api,
    ):
        yield World(api, vendors)


@pytest.mark.parametrize("name", ENDS)
async def test_every_accepted_case_ends_as_it_says(world: World, name: str) -> None:
    case, ends = CASES[name], ENDS[name]
    ids = await world.message(case["provider"])
    for earlier in ends.behind:
        assert await world.post(posted(CASES[earlier], ids)) == 204
    await world.stored(ids, len(ends.behind))
    made = posted(case, ids)
    for _ in range(case["repeat"] + 1):
        assert await world.post(made) == 204
    await world.stored(ids, ends.stored)
    assert await world.status(ids) == ends.status
    assert await world.listed(ids) == ({ends.listed} if ends.listed else set())
    assert len(await world.events(ids)) == ends.stored


async def test_one_change_is_told_once(world: World) -> None:
    ids = await world.message("sendgrid")
    for name in ("sg-dup-01", "sg-batch-01", "sg-batch-01", "sg-ok-11"):
        assert await world.post(posted(CASES[name], ids)) == 204
    await world.stored(ids, 5)
    async with asyncio.timeout(15):
        while (told := (await world.told(ids)))[-1] != "opened":
            await asyncio.sleep(0.05)
    assert [status for status in told if status in ("delivered", "opened")] == ["delivered", "opened"]


@pytest.mark.parametrize("first", ["delivered", "bounce"])
async def test_events_in_any_order_end_in_the_same_state(world: World, first: str) -> None:
    ids = await world.message("sendgrid")
    kinds = ["delivered", "open", "bounce", "click", "processed"]
    for kind in [first, *(kind for kind in kinds if kind != first)]:
        body = orjson.dumps(
            [{"event": kind, "sg_event_id": f"{ids.word}-{kind}", "notification_id": str(ids.notification_id)}]
        )
        assert await world.post(Posted("sendgrid", sendgrid_headers(body), body)) == 204
    await world.stored(ids, 5)
    assert await world.status(ids) == "bounced"


@pytest.mark.parametrize("name", FORGED)
async def test_forged_ones_have_no_effect(world: World, name: str) -> None:
    case = CASES[name]
    ids = await world.message(case["provider"])
    assert await world.post(posted(case, ids)) == 403
    # Told later of the same message, so it is worked off later.
    genuine = {"sendgrid": "sg-dup-01", "twilio": "tw-ok-03", "ses-sns": "ses-ok-10"}[case["provider"]]
    assert await world.post(posted(CASES[genuine], ids)) == 204
    await world.stored(ids, 1)
    assert len(await world.events(ids)) == 1
    assert await world.status(ids) == ("sent" if case["provider"] == "ses-sns" else "delivered")
    assert await world.listed(ids) == set()


async def test_a_bounced_address_is_not_written_to_again(world: World) -> None:
    ids = await world.message("sendgrid")
    assert await world.post(posted(CASES["sg-ok-04"], ids)) == 204
    await world.stored(ids, 1)
    again = a_request("u-again", recipient={"email": ids.address.upper()})
    await world.service.publish(again)
    await world.service.until(UUID(again["id"]), "suppressed")


async def test_what_comes_before_its_message_waits_for_it(world: World) -> None:
    number = next(_numbers)
    request = a_request(f"u-{number}")
    ids = Ids(UUID(request["id"]), address=request["recipient"]["email"])
    world.vendors.ids[request["user_id"]] = "sendgrid", ids.word
    assert await world.post(posted(CASES["sg-dup-01"], ids)) == 204
    await world.stored(ids, 1)
    assert (await world.events(ids))[0].retry_at is not None
    await world.service.publish(request)
    await world.service.until(ids.notification_id, "sent", "delivered")
    async with world.service.worker(only={UNMATCHED_EVENTS}), asyncio.timeout(30):
        while await world.status(ids) != "delivered":
            await asyncio.sleep(0.05)


async def test_ids_that_a_vendor_gives_twice_mix_up_no_messages(world: World) -> None:
    """Stand-ins of vendors answer with the same message id, and tell the same feedback id, for all messages."""
    first, second = await world.message("ses-sns"), await world.message("ses-sns")
    for ids in (first, second):
        assert await world.post(posted(CASES["ses-ok-05"], ids)) == 204
        await world.stored(ids, 2)
        assert await world.status(ids) == "bounced"
    first, second = await world.message("twilio"), await world.message("twilio")
    for ids in (first, second):
        query = f"?delivery_id={delivery_id(ids.notification_id, Channel.SMS)}&generation=0&attempt=1"
        assert await world.post(posted(CASES["tw-ok-03"], replace(ids, word=first.word, query=query))) == 204
        await world.stored(ids, 1)
        assert await world.status(ids) == "delivered"
