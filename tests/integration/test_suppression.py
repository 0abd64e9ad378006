"""What suppresses an address and what undoes it, in the database."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models.enums import Channel, Outcome, Priority, SuppressionReason
from models.repositories import audience, bounces, deliveries
from models.settings import Settings
from models.suppressions import Bounce, DeadTarget, Source, Suppression
from streams.delays import DUE_AT, RETURN_TOPIC
from streams.providers.base import DeliveryResult
from streams.records import Incoming, Outgoing
from streams.suppression import drop_dead, lift, note_arrival, note_bounce, suppress
from tests.fixtures.lane import a_lane
from tests.fixtures.rows import Rows, delivery, some_rows
from tests.fixtures.service import Ledger
from tests.fixtures.stack import Databases

SETTINGS = Settings(database_url="postgresql://none/none", soft_bounce_threshold=3, soft_bounce_days=7)
NOW = datetime.now(UTC)


@pytest.fixture(scope="module")
async def rows(postgres: Databases, migrated: str) -> AsyncIterator[Rows]:
    async with some_rows(postgres, migrated) as made:
        yield made


def somebody() -> str:
    return f"Ada-{uuid.uuid4().hex}@example.com"


def bounce(address: str, **fields: Any) -> Bounce:
    return Bounce(
        **{
            "event_id": f"sendgrid:{uuid.uuid4()}",
            "address": address,
            "channel": Channel.EMAIL,
            "is_permanent": False,
            "reason": "4.2.2",
            "category": "news",
            "delivery_id": uuid.uuid4(),
            "occurred_at": NOW,
            **fields,
        }
    )


async def note(rows: Rows, *bounces: Bounce) -> None:
    for each in bounces:
        async with rows.engine.begin() as connection:
            await note_bounce(connection, each, settings=SETTINGS)


async def reasons(rows: Rows, address: str) -> list[str]:
    found = await rows.fetch(
        "SELECT reason FROM unsubscribe_lists WHERE address = :address ORDER BY reason", address=address.lower()
    )
    return [row.reason for row in found]


async def test_a_hard_bounce_suppresses_at_once_and_counts_once(rows: Rows) -> None:
    address = somebody()
    hard = bounce(address, is_permanent=True, reason="5.1.1")
    await asyncio.gather(*(note(rows, hard) for _ in range(5)))
    assert await reasons(rows, address) == ["bounced"]
    [kept] = await rows.fetch("SELECT * FROM bounce_records WHERE address = :address", address=address.lower())
    assert (kept.kind, kept.reason, kept.category, kept.delivery_id) == ("hard", "5.1.1", "news", hard.delivery_id)
    [entry] = await rows.fetch("SELECT * FROM unsubscribe_lists WHERE address = :address", address=address.lower())
    assert (entry.category, entry.source, entry.note) == ("", "provider", "5.1.1")


async def test_a_repeat_of_a_bounce_does_not_bring_back_what_was_lifted(rows: Rows) -> None:
    address = somebody()
    hard = bounce(address, is_permanent=True)
    await note(rows, hard)
    async with rows.engine.begin() as connection:
        await lift(connection, [suppression(address, SuppressionReason.BOUNCED)])
    await note(rows, hard)
    assert await reasons(rows, address) == []


async def test_soft_bounces_suppress_at_the_threshold(rows: Rows) -> None:
    address = somebody()
    first, second, third = bounce(address), bounce(address), bounce(address)
    await note(rows, first, second, first, second)
    assert await reasons(rows, address) == []
    await note(rows, third)
    assert await reasons(rows, address) == ["bounced"]


async def test_a_message_that_is_deferred_again_and_again_has_come_back_once(rows: Rows) -> None:
    address = somebody()
    message = uuid.uuid4()
    await note(rows, *(bounce(address, delivery_id=message) for _ in range(5)))
    assert await reasons(rows, address) == []


async def test_only_soft_bounces_of_the_last_days_count(rows: Rows) -> None:
    address = somebody()
    old = NOW - timedelta(days=8)
    await note(rows, bounce(address, occurred_at=old), bounce(address, occurred_at=old), bounce(address))
    assert await reasons(rows, address) == []


async def test_an_arrival_begins_the_row_anew(rows: Rows) -> None:
    address = somebody()
    await note(rows, bounce(address), bounce(address))
    async with rows.engine.begin() as connection:
        await note_arrival(connection, [(Channel.EMAIL, address)])
    await note(rows, bounce(address))
    assert await reasons(rows, address) == []


def suppression(address: str, reason: SuppressionReason, **fields: Any) -> Suppression:
    return Suppression(**{"channel": Channel.EMAIL, "address": address, "reason": reason, "created_at": NOW, **fields})


async def test_reasons_stand_side_by_side_and_are_lifted_one_by_one(rows: Rows) -> None:
    address = somebody()
    both = [suppression(address, reason) for reason in (SuppressionReason.UNSUBSCRIBED, SuppressionReason.COMPLAINED)]
    for _ in range(2):
        async with rows.engine.begin() as connection:
            await suppress(connection, [*both, *both])
    assert await reasons(rows, address) == ["complained", "unsubscribed"]
    async with rows.engine.begin() as connection:
        await lift(connection, [suppression(address.upper(), SuppressionReason.UNSUBSCRIBED)])
    assert await reasons(rows, address) == ["complained"]


async def test_an_operator_who_lifts_a_bounce_lets_the_soft_ones_go(rows: Rows) -> None:
    address = somebody()
    await note(rows, bounce(address), bounce(address), bounce(address))
    async with rows.engine.begin() as connection:
        await lift(connection, [suppression(address, SuppressionReason.BOUNCED)])
    await note(rows, bounce(address))
    assert await reasons(rows, address) == []


def dead(address: str, channel: Channel = Channel.EMAIL, **fields: Any) -> DeadTarget:
    return DeadTarget(
        **{
            "delivery_id": uuid.uuid4(),
            "generation": 0,
            "attempt": 1,
            "channel": channel,
            "address": address,
            "category": "news",
            "provider": "smtp",
            "reason": "550 5.1.1",
            "occurred_at": NOW,
            **fields,
        }
    )


async def test_a_dead_target_is_a_hard_bounce_and_who_said_stop_is_none(rows: Rows) -> None:
    address, stopped, gone = somebody(), "+4915112345670", "+4915112345671"
    targets = [
        dead(address),
        dead(stopped, Channel.SMS, provider="twilio", reason="21610"),
        dead(gone, Channel.SMS, provider="twilio", reason="21211"),
    ]
    for _ in range(2):
        async with rows.engine.begin() as connection:
            await drop_dead(connection, targets)
    assert await reasons(rows, address) == ["bounced"]
    assert await reasons(rows, stopped) == ["opted_out"]
    assert await reasons(rows, gone) == ["bounced"]
    found = await rows.fetch(
        "SELECT address FROM bounce_records WHERE delivery_id = ANY(:ids)",
        ids=[target.delivery_id for target in targets],
    )
    assert sorted(row.address for row in found) == sorted([address.lower(), gone])
    [entry] = await rows.fetch("SELECT source FROM unsubscribe_lists WHERE address = :address", address=gone)
    assert entry.source == Source.SEND


class Kept:
    """Takes records and keeps them."""

    def __init__(self) -> None:
        self.records: list[Outgoing] = []

    async def send_all(self, records: Sequence[Outgoing]) -> list[tuple[int, int]]:
        self.records += records
        return [(0, number) for number in range(len(records))]


def incoming(value: bytes | None, offset: int = 0) -> Incoming:
    return Incoming("", 0, offset, 0, b"u-1", value)


@pytest.mark.parametrize(
    ("channel", "reason", "listed"),
    [
        (Channel.EMAIL, "550 5.1.1", "bounced"),
        (Channel.SMS, "21610", "opted_out"),
    ],
)
async def test_a_lane_suppresses_an_address_that_a_provider_called_dead(
    rows: Rows, channel: Channel, reason: str, listed: str
) -> None:
    to = somebody() if channel is Channel.EMAIL else "+4915112345672"
    says_dead = Ledger(answer=lambda _: DeliveryResult(outcome=Outcome.TARGET_DEAD, provider="ledger", reason=reason))
    first, second = [delivery(await rows.queued(channel), channel, to=to) for _ in range(2)]
    async with a_lane(rows.engine, Kept(), says_dead, channel=channel) as lane:
        await lane.work([incoming(first.record_value())])
        assert await reasons(rows, to) == [listed]
        await lane.work([incoming(second.record_value(), 1)])
    assert len(says_dead.calls) == 1, "what is queued for the address is not sent any more"
    assert await rows.status(second.notification_id) == "suppressed"
    [row] = await rows.fetch(
        "SELECT reason FROM notification_deliveries WHERE delivery_id = :id", id=second.delivery_id
    )
    assert row.reason == listed


async def test_bulk_of_a_paused_category_waits_unchanged_and_goes_out_after_its_end(rows: Rows) -> None:
    category = f"news-{uuid.uuid4().hex[:8]}"
    await rows.execute(
        "INSERT INTO category_pauses (category, channel, paused_at, sent, bounced)"
        " VALUES (:category, 'email', now(), 1000, 100)",
        category=category,
    )
    asked = [delivery(await rows.queued(category=category), category=category) for _ in range(20)]
    kept, provider = Kept(), Ledger()
    async with a_lane(rows.engine, kept, provider, priority=Priority.LOW) as lane:
        await lane.work([incoming(one.record_value(), offset) for offset, one in enumerate(asked)])
        assert len(lane.acknowledged) == 20
        assert not provider.calls
        assert {await rows.status(one.notification_id) for one in asked} == {"queued"}
        assert not await rows.fetch(
            "SELECT 1 FROM delivery_logs WHERE delivery_id = ANY(:ids)", ids=[one.delivery_id for one in asked]
        )
        assert [record.value for record in kept.records] == [one.record_value() for one in asked]
        headers = [dict(record.headers) for record in kept.records]
        assert {header[RETURN_TOPIC] for header in headers} == {b"notification.send.email.low"}
        waits = [datetime.fromisoformat((header[DUE_AT] or b"").decode()) - datetime.now(UTC) for header in headers]
        assert timedelta(minutes=9) < min(waits) < max(waits) < timedelta(minutes=15, seconds=1)
        assert {record.topic for record in kept.records} == {"notification.delay.10m"}
        await rows.execute(
            "UPDATE category_pauses SET resumed_at = now() WHERE category = :category", category=category
        )
        await lane.work([incoming(record.value, 100 + offset) for offset, record in enumerate(list(kept.records))])
    assert len(provider.calls) == 20
    assert {await rows.status(one.notification_id) for one in asked} == {"sent"}


async def test_no_list_is_read_whole_even_before_the_database_knows_its_size(rows: Rows) -> None:
    for table in ("unsubscribe_lists", "bounce_records"):
        await rows.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = false)")
    await rows.execute(
        "INSERT INTO unsubscribe_lists (address, channel, category, reason, created_at)"
        " SELECT n || '@example.org', 'email', '', 'bounced', now() FROM generate_series(1, 30000) AS n"
    )
    await rows.execute(
        "INSERT INTO bounce_records (event_id, channel, address, kind, occurred_at)"
        " SELECT n, 'email', n || '@example.org', 'soft', now() FROM generate_series(1, 30000) AS n"
    )
    addresses = [f"{number}@example.org" for number in range(100)]
    targets = {"address": addresses, "channel": ["email"] * 100}
    asked = [delivery(uuid.uuid4(), to=address) for address in addresses]
    claimed = {
        **{name: [getattr(one, name) for one in asked] for name in deliveries._DELIVERY_FIELDS},
        "address": addresses,
        "source_partition": [0] * 100,
        "source_offset": [0] * 100,
        "lease": timedelta(seconds=1),
        "is_bulk": True,
    }
    for statement, values in [
        (audience._UNSUBSCRIBED, {"addresses": addresses}),
        (deliveries._CLAIM, claimed),
        (bounces._LET_GO, targets),
        (bounces._SOFT, {**targets, "since": [NOW] * 100}),
    ]:
        plan = "\n".join(row[0] for row in await rows.fetch(f"EXPLAIN {statement.text}", **values))
        assert "Seq Scan on unsubscribe_lists" not in plan, plan
        assert "Seq Scan on bounce_records" not in plan, plan
