"""How many providers' events a second their lane turns into status, once it has joined: from Kafka to the commit.

One JSON line; `-s` shows it. Each delivery is told of as delivered and opened, by its id or by the vendor's.
"""

from __future__ import annotations

import asyncio
import json
import time
from datetime import UTC, datetime
from uuid import UUID, uuid4

from models.enums import Channel, EventKind
from models.ids import delivery_id
from models.provider_events import ProviderEvent
from streams.records import Outgoing
from streams.topics import PROVIDER_EVENTS
from tests.fixtures.records import raw_client
from tests.fixtures.service import Service, a_service
from tests.fixtures.stack import Databases

DELIVERIES = 8_000


async def a_backlog(service: Service, *, by_message: bool) -> int:
    """Rows of mail that was sent, and two records for each; returns how many records."""
    notifications = [uuid4() for _ in range(DELIVERIES)]
    await service.execute(
        "INSERT INTO notifications (id, user_id, client, fingerprint, category, priority, status, rank, created_at,"
        " updated_at) SELECT x, 'u-' || x, 'bench', '', 'general', 'normal', 'sent', 40, now(), now()"
        " FROM unnest(CAST(:ids AS uuid[])) AS x",
        ids=notifications,
    )
    deliveries = [delivery_id(one, Channel.EMAIL) for one in notifications]
    await service.execute(
        "INSERT INTO notification_deliveries (delivery_id, notification_id, channel, status, rank, attempts, provider,"
        " provider_message_id, created_at, updated_at) SELECT d, n, 'email', 'sent', 40, 1, 'sendgrid', 'm-' || d,"
        " now(), now() FROM unnest(CAST(:d AS uuid[]), CAST(:n AS uuid[])) AS g(d, n)",
        d=deliveries,
        n=notifications,
    )
    await service.execute(
        "INSERT INTO delivery_logs (delivery_id, generation, attempt, claimed_at, lease_until, source_partition,"
        " source_offset, outcome, provider, provider_message_id, finished_at)"
        " SELECT d, 0, 1, now(), now(), 0, 0, 'sent', 'sendgrid', 'm-' || d, now()"
        " FROM unnest(CAST(:d AS uuid[])) AS d",
        d=deliveries,
    )
    kinds = (EventKind.DELIVERED, EventKind.OPENED)
    events = [_event(kind, one, by_message) for kind in kinds for one in deliveries]
    await service.publisher.send_all([Outgoing(PROVIDER_EVENTS, each.key, each.record_value()) for each in events])
    return len(events)


def _event(kind: EventKind, delivery: UUID, by_message: bool) -> ProviderEvent:
    named = {"provider_message_id": f"m-{delivery}"} if by_message else {"delivery_id": delivery, "generation": 0}
    return ProviderEvent(
        event_id=f"sendgrid:{uuid4().hex}",
        provider="sendgrid",
        channel=Channel.EMAIL,
        kind=kind,
        occurred_at=datetime.now(UTC),
        address="ada@example.com",
        **named,
    )


async def test_events_a_second(kafka: str, postgres: Databases, migrated: str, valkey: str) -> None:
    for by_message in (False, True):
        async with (
            a_service(kafka, postgres, migrated, valkey) as service,
            raw_client(service.settings) as raw,
        ):
            count = await a_backlog(service, by_message=by_message)
            async with service.worker(only={"provider-events"}):
                while not (before := await _stored(service)):
                    await asyncio.sleep(0.005)
                began, cpu = time.perf_counter(), time.process_time()
                await raw.until_done("provider-events", PROVIDER_EVENTS, within_seconds=60)
                took, used = time.perf_counter() - began, time.process_time() - cpu
            await _all_opened(service)
        name = "by message id" if by_message else "by delivery id"
        count -= before
        figures = {"events_per_second": round(count / took), "cpu_us_each": round(used / count * 1e6)}
        print(json.dumps({"provider_events": name, **figures}))


async def _stored(service: Service) -> int:
    [row] = await service.fetch("SELECT count(*) AS stored FROM provider_events")
    return int(row.stored)


async def _all_opened(service: Service) -> None:
    [row] = await service.fetch("SELECT array_agg(DISTINCT status) AS statuses FROM notification_deliveries")
    assert row.statuses == ["opened"]
