"""One look at the queues: the newest samples, or, where nobody takes any, Kafka itself."""

from __future__ import annotations

import fnmatch
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from sqlalchemy import text

from cli import CommandError
from cli.servers import database
from models.ids import rfc3339
from models.repositories import queue_metrics
from models.repositories.queue_metrics import QueueSample, Turn
from models.settings import Settings
from streams.errors import is_passing
from streams.queues import QUEUES, QueueState, described, state

#: The sampler's five seconds, and some for a slow one.
_FRESH = timedelta(seconds=20)


@dataclass(frozen=True, slots=True)
class Look:
    """Samples in the order of the flow, and what is to be said about them."""

    samples: tuple[QueueSample, ...]
    notes: tuple[str, ...]

    def only(self, lanes: Sequence[str], *, busy: bool) -> Look:
        """Those whose names fit one of the patterns; `busy` leaves out the idle ones.

        Raises:
            CommandError: for a pattern that fits none.
        """
        for pattern in lanes:
            if not fnmatch.filter(QUEUES, pattern):
                raise CommandError(f"there is no queue {pattern!r} (there are: {', '.join(QUEUES)})")
        kept = (
            sample
            for sample in self.samples
            if (not lanes or any(fnmatch.fnmatch(sample.lane, pattern) for pattern in lanes))
            and not (busy and state(sample) is QueueState.IDLE)
        )
        return replace(self, samples=tuple(kept))

    def items(self) -> list[dict[str, Any]]:
        """As `GET /queues` shows them."""
        return [{**described(sample), "sampled_at": rfc3339(sample.sampled_at)} for sample in self.samples]

    def document(self) -> dict[str, Any]:
        """For programs."""
        return {"items": self.items(), "notes": list(self.notes)}


async def look(settings: Settings) -> Look:
    """The queues as they are.

    Raises:
        CommandError: when neither samples nor Kafka are to be had.
    """
    async with database(settings) as connection:
        samples = await queue_metrics.newest(connection)
        now = (await connection.execute(text("SELECT clock_timestamp()"))).scalar_one()
        if samples and now - samples[0].sampled_at <= _FRESH:
            return Look(_in_order(samples), _remarks(_in_order(samples)))
        # Neither stored nor compared: that is for the one whose turn it is.
        asked = await _ask(settings, connection, Turn(now, ()))
    if asked is not None:
        note = "no worker takes samples (is one running?): this is what Kafka says now, without rates"
        return Look(_in_order(asked), (*_remarks(asked), note))
    away = f"Kafka at {settings.kafka_bootstrap_servers} does not answer"
    if not samples:
        raise CommandError(f"{away}, and no worker has taken samples yet")
    old = now - samples[0].sampled_at
    return Look(_in_order(samples), (f"{away}: this is how it was {round(old.total_seconds())} s ago",))


async def _ask(settings: Settings, connection: Any, turn: Turn) -> list[QueueSample] | None:
    from streams.queue_reader import QueueReader
    from streams.queue_sampler import measure

    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    reader = QueueReader(settings, client_id="comms-cli")
    try:
        return await measure(connection, reader, turn)
    except Exception as error:
        if not is_passing(error):
            raise
        return None
    finally:
        await reader.close()


def _in_order(samples: Sequence[QueueSample]) -> tuple[QueueSample, ...]:
    by_name = {sample.lane: sample for sample in samples}
    return tuple(by_name[name] for name in QUEUES if name in by_name)


def _remarks(samples: Sequence[QueueSample]) -> tuple[str, ...]:
    """What somebody should do something about."""
    found = []
    unread = [sample.lane for sample in samples if state(sample) is QueueState.UNATTENDED]
    holding = [sample.lane for sample in samples if state(sample) is QueueState.HOLDING]
    missing = [name for name, queue in QUEUES.items() if queue.topic and name not in {one.lane for one in samples}]
    if unread:
        found.append(f"nobody reads {_names(unread)}: start `comms worker`, or `comms worker --only` with their names")
    if holding:
        found.append(f"nothing leaves {_names(holding)}: the workers' logs say what they hold for")
    if missing:
        found.append(f"no topic for {_names(missing)}: `comms migrate` makes it")
    return tuple(found)


def _names(lanes: Sequence[str]) -> str:
    most = 4
    if len(lanes) <= most:
        return ", ".join(lanes)
    return f"{', '.join(lanes[:most])} and {len(lanes) - most} more"
