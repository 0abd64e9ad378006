"""Waits until consumer groups have their members: a rebalance during a measurement is measured with it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from bench.system import System

_JOIN_SECONDS = 60.0
_POLL_SECONDS = 0.25


async def joined(system: System, groups: Collection[str], *, members: int) -> None:
    """Returns when each group is stable and has so many members.

    Raises:
        TimeoutError: when that takes longer than a minute.
    """
    async with admin_of(system) as admin, asyncio.timeout(_JOIN_SECONDS):
        for group in groups:
            while not await _is_stable(admin, group, members):  # noqa: ASYNC110  Kafka tells nobody
                await asyncio.sleep(_POLL_SECONDS)


async def _is_stable(admin: AIOKafkaAdminClient, name: str, members: int) -> bool:
    with contextlib.suppress(KafkaError):  # the broker has not set up its groups yet
        [response] = await admin.describe_consumer_groups([name])
        [group] = response.to_object()["groups"]
        return bool(group["state"] == "Stable" and len(group["members"]) == members)
    return False


@asynccontextmanager
async def admin_of(system: System) -> AsyncIterator[AIOKafkaAdminClient]:
    """An admin client of the system's Kafka."""
    admin = AIOKafkaAdminClient(bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"])
    await admin.start()
    try:
        yield admin
    finally:
        await admin.close()
