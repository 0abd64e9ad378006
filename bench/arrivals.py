"""Waiting until what was published has come out at the other end, and what that took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection, Mapping
from typing import Any
from uuid import UUID

from bench.load import Acknowledged, percentile
from bench.system import System
from models.enums import Channel
from models.status import ENDED_RANK

_DEADLINE_SECONDS = 600.0
_POLL_SECONDS = 0.25
#: Nothing new for so long, and it is lost.
_STALL_SECONDS = 90.0


class Stalled(Exception):
    """Some of what was published does not arrive."""


async def arrived(system: System, noted: Acknowledged) -> float:
    """Waits until the sink has taken all; returns the time of the last, in Unix seconds.

    Raises:
        Stalled: when nothing more comes.
    """
    wanted = noted.deliveries()
    deadline, patience, before = time.monotonic() + _DEADLINE_SECONDS, time.monotonic() + _STALL_SECONDS, -1
    while time.monotonic() < min(deadline, patience):
        await asyncio.sleep(_POLL_SECONDS)
        accepted = int((await system.summary())["accepted"])
        if accepted == before and accepted >= len(wanted):
            found = await entries(system, wanted)
            if len(found) == len(wanted):
                return max(float(entry["first_accepted_at"]) for entry in found.values())
        if accepted != before:
            patience = time.monotonic() + _STALL_SECONDS
        before = accepted
    missing = len(wanted) - len(await entries(system, wanted))
    raise Stalled(f"{missing} of {len(wanted)} notifications did not arrive")


async def ended(system: System, ids: Collection[UUID]) -> float:
    """Waits until all are in a final state; returns when the last was written, in Unix seconds.

    Raises:
        Stalled: when nothing more ends.
    """
    async with system.database() as database:
        deadline, patience, before = time.monotonic() + _DEADLINE_SECONDS, time.monotonic() + _STALL_SECONDS, -1
        while time.monotonic() < min(deadline, patience):
            done, last = await database.fetchrow(
                "SELECT count(*), extract(epoch FROM max(updated_at))::float8 FROM notifications "
                "WHERE id = ANY($1) AND rank >= $2",
                list(ids),
                ENDED_RANK,
            )
            if done >= len(ids):
                return float(last)
            if done != before:
                patience = time.monotonic() + _STALL_SECONDS
            before = done
            await asyncio.sleep(_POLL_SECONDS)
    raise Stalled(f"{len(ids) - before} of {len(ids)} notifications did not end")


async def entries(system: System, wanted: Mapping[str, float]) -> dict[str, Any]:
    """The sink's ledger of those of these deliveries that it has taken."""
    ledger = (await system.ledger())["ledger"]
    return {name: ledger[name] for name in wanted if ledger.get(name, {}).get("accepted")}


async def waits(system: System, noted: Acknowledged) -> list[float]:
    """Seconds from publishing to the first call of the provider."""
    published = noted.deliveries()
    return [entry["first_at"] - published[name] for name, entry in (await entries(system, published)).items()]


async def inbox_waits(system: System, noted: Acknowledged) -> list[float]:
    """Seconds from publishing an in-app message to its row."""
    published = noted.deliveries(Channel.IN_APP)
    async with system.database() as database:
        rows = await database.fetch(
            "SELECT delivery_id::text AS id, extract(epoch FROM finished_at)::float8 AS at FROM delivery_logs "
            "WHERE delivery_id = ANY($1) AND outcome = 'sent'",
            [UUID(name) for name in published],
        )
    return [row["at"] - published[row["id"]] for row in rows]


async def middle_rate(system: System, noted: Acknowledged) -> float:
    """Acceptances a second between the tenth and the ninetieth hundredth of them: without start and tail."""
    times = sorted(entry["first_accepted_at"] for entry in (await entries(system, noted.deliveries())).values())
    first, last = percentile(times, 0.1), percentile(times, 0.9)
    return 0.8 * len(times) / max(last - first, 1e-9)


def latencies(seconds: list[float]) -> dict[str, float]:
    """Percentiles in milliseconds."""
    told = {f"p{round(share * 100)}_ms": round(percentile(seconds, share) * 1000, 1) for share in (0.5, 0.95, 0.99)}
    return told | {"max_ms": round(max(seconds) * 1000, 1)}
