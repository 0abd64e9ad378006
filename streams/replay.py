"""Replaying dead letters: batch by batch, each in one transaction that holds the letters' rows.

Kafka has a batch's records before its letters are marked, so a crash in between writes the records again: they are the
same ones, and the claims of their generation absorb the copies. How far a replay is stands in its row, so whoever takes
it up goes on from there; no two processes work on one at a time.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import structlog
from mode import Service
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from models.changes import Change
from models.enums import Status
from models.replays import Stands
from models.repositories import audit, dead_letter_search, deliveries, replays
from models.repositories.dead_letter_search import Count, StoredLetter, Wanted
from models.repositories.replays import NewReplay, Runner, State, StoredReplay
from models.settings import Settings
from models.status import SENT_RANK
from streams.domain import attempts
from streams.domain.replays import CEILING, LASTING, Replay, WhyNot, may_go_back, plan
from streams.errors import is_passing
from streams.intake import Publishes
from streams.letters import LetterReader, Place
from streams.metrics import REPLAYED
from streams.records import Incoming, Outgoing
from streams.topics import STATUS

log = structlog.get_logger()

DEFAULT_RATE = 500
HIGHEST_RATE = 10_000
_BATCH_LETTERS = 200
#: A batch ends where its letters have more bytes together.
_BATCH_BYTES = 8 * 1024 * 1024
_IDLE_SECONDS = 1.0
_PAUSE_AFTER_ERROR_SECONDS = 2.0
_TIDY_SECONDS = 60.0
#: A command that is alive moves its replay more often.
_ABANDONED_AFTER = timedelta(minutes=5)


class ReadsLetters(Protocol):
    """The part of the reader that a replay needs."""

    def read(self, places: Sequence[Place]) -> AsyncGenerator[tuple[Place, Incoming | None], None]:
        """The letters at these places, in the order of the topic; None for what is gone."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did. The next one had better wait `wait_seconds`."""

    replay_id: UUID
    letters: int = 0
    wait_seconds: float = 0.0
    is_finished: bool = False


@dataclass(slots=True)
class _Batch:
    """What a batch of letters causes, gathered before anything is written."""

    last: StoredLetter | None = None
    replays: dict[str, Replay] = field(default_factory=dict)
    why_not: dict[str, WhyNot] = field(default_factory=dict)

    def add(self, letter: StoredLetter, decision: Replay | WhyNot) -> None:
        self.last = letter
        if isinstance(decision, Replay):
            self.replays[letter.id] = decision
        else:
            self.why_not[letter.id] = decision


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a replay would find, by the index alone."""

    groups: tuple[Count, ...]

    @property
    def matched(self) -> int:
        """All letters that are wanted."""
        return sum(group.letters for group in self.groups)

    def to_replay(self, *, force: bool) -> int:
        """How many are left."""
        return self.matched - sum(self.skipped(force=force).values())

    def skipped(self, *, force: bool) -> dict[str, int]:
        """How many are not, by why; the reasons that only reading a letter tells are not in it."""
        counted: Counter[str] = Counter()
        for group in self.groups:
            counted[WhyNot.ALREADY_REPLAYED] += group.already_replayed
            counted["unreplayable"] += group.unreplayable
            if not may_go_back(group.source_topic):
                counted[WhyNot.NO_TOPIC] += group.letters - group.already_replayed - group.unreplayable
            elif not force:
                counted[WhyNot.CEILING] += group.too_often
        return {str(why): count for why, count in counted.items() if count}


async def summary(connection: AsyncConnection, wanted: Wanted) -> Summary:
    """Counts before acting."""
    return Summary(groups=tuple(await dead_letter_search.count(connection, wanted, ceiling=CEILING)))


async def foreseen(
    connection: AsyncConnection, row: StoredLetter | None, record: Incoming | None
) -> Replay | WhyNot | None:
    """What replaying a letter would do now; None for one that is not in the index."""
    if row is None:
        return None
    reason = _known_reason(row)
    if reason is not None:
        return reason
    batch = _Batch()
    batch.add(row, WhyNot.GONE if record is None else plan(record))
    batch = await _as_it_stands(connection, batch)
    return batch.replays.get(row.id) or batch.why_not[row.id]


async def ask(
    connection: AsyncConnection,
    wanted: Wanted,
    *,
    who: str,
    reason: str,
    rate: int,
    force: bool,
    runner: Runner,
    matched: int,
) -> UUID:
    """Stores a replay, and who wants it and why; nothing is replayed yet."""
    new = NewReplay(who=who, reason=reason, wanted=wanted, rate=rate, force=force, runner=runner, matched=matched)
    replay_id = await replays.ask(connection, new)
    details = {"replay_id": str(replay_id), "wanted": wanted.document(), "matched": matched, "force": force}
    await audit.record(connection, who=who, act=audit.Act.REPLAY, reason=reason, details=details)
    return replay_id


class Replayer:
    """Does replays, one batch a step."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        publisher: Publishes,
        reader: ReadsLetters,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._reader = reader
        self._clock = clock

    async def run(self, replay_id: UUID, *, sleep: Callable[[float], Awaitable[None]]) -> AsyncIterator[StoredReplay]:
        """Does a replay to its end; tells how far it is after each batch."""
        while True:
            step = await self.step(replay_id)
            if step is None:
                return
            async with self._engine.connect() as connection:
                now = await replays.get(connection, replay_id)
            if now is not None:
                yield now
            if step.wait_seconds:
                await sleep(step.wait_seconds)

    async def step(self, replay_id: UUID | None = None) -> Step | None:
        """The next batch of this replay, or of the one of the workers that is due first; None where there is none.

        Raises what says that a server is away; nothing is lost then, and the step may be repeated. A replay that
        can't go on for another reason is ended.
        """
        taken: list[StoredReplay] = []
        try:
            async with self._engine.begin() as connection:
                replay = await replays.take(connection, replay_id)
                if replay is None:
                    return None
                taken.append(replay)
                return await self._batch(connection, replay)
        except Exception as error:
            if is_passing(error) or not taken:
                raise
            log.exception("replay failed", replay_id=str(taken[0].id), error=type(error).__name__, exc_info=False)
        async with self._engine.begin() as connection:
            await replays.end(connection, taken[0].id, State.FAILED)
        return Step(taken[0].id, is_finished=True)

    async def _batch(self, connection: AsyncConnection, replay: StoredReplay) -> Step:
        if replay.wait_seconds > 0:
            return Step(replay.id, wait_seconds=replay.wait_seconds)
        limit = max(1, min(_BATCH_LETTERS, replay.rate // 4))
        letters = await replays.letters(connection, replay, limit=limit)
        if not letters:
            await replays.end(connection, replay.id, State.DONE)
            log.info("replay done", replay_id=str(replay.id), replayed=replay.replayed, skipped=dict(replay.skipped))
            return Step(replay.id, is_finished=True)
        batch = await self._plan(connection, replay, letters)
        await self._publisher.send_all(list(self._records(batch)))
        await self._mark(connection, replay, batch)
        for made in batch.replays.values():
            REPLAYED.labels(made.record.topic).inc()
        return Step(replay.id, letters=len(batch.replays))

    async def _plan(self, connection: AsyncConnection, replay: StoredReplay, letters: Sequence[StoredLetter]) -> _Batch:
        """Decides letter by letter, as far as the batch's bytes go."""
        places = [Place.of(letter.id) for letter in letters if _known_reason(letter) is None]
        bytes_read, decided = 0, _Batch()
        async with contextlib.aclosing(self._reader.read(places)) as read:
            for letter in letters:
                reason = _known_reason(letter)
                if reason is None:
                    _, found = await anext(read)
                    bytes_read += 0 if found is None else found.size_bytes
                    decided.add(letter, WhyNot.GONE if found is None else plan(found, force=replay.force))
                else:
                    decided.add(letter, reason)
                if bytes_read > _BATCH_BYTES:
                    break
        return await _as_it_stands(connection, decided)

    def _records(self, batch: _Batch) -> list[Outgoing]:
        """What goes to Kafka: the records, and that their deliveries wait again."""
        records = [replay.record for replay in batch.replays.values()]
        now = self._clock()
        for replay in batch.replays.values():
            if replay.delivery is not None:
                told = attempts.status_event(replay.delivery, Status.QUEUED, now)
                records.append(Outgoing(STATUS, replay.record.key, told.value()))
        return records

    async def _mark(self, connection: AsyncConnection, replay: StoredReplay, batch: _Batch) -> None:
        assert batch.last is not None, "a batch has a letter"
        await replays.mark_replayed(connection, replay.id, list(batch.replays))
        lasting = {letter: str(why) for letter, why in batch.why_not.items() if why in LASTING}
        if lasting:
            await replays.mark_unreplayable(connection, lasting)
        skipped = Counter(str(why) for why in batch.why_not.values())
        await replays.progress(connection, replay, replayed=len(batch.replays), skipped=skipped, last=batch.last)
        # Last, because it takes the locks that the lanes want.
        await deliveries.advance(connection, _queued(batch))


def _known_reason(letter: StoredLetter) -> WhyNot | None:
    """Why a letter is not replayed, as far as its row tells."""
    if letter.replayed_at is not None:
        return WhyNot.ALREADY_REPLAYED
    return None if letter.unreplayable is None else WhyNot(letter.unreplayable)


async def _as_it_stands(connection: AsyncConnection, batch: _Batch) -> _Batch:
    """Leaves out the deliveries that something happened to since they failed."""
    about = {letter: replay.delivery for letter, replay in batch.replays.items() if replay.delivery is not None}
    if not about:
        return batch
    now = await replays.stand(connection, [delivery.delivery_id for delivery in about.values()])
    for letter, delivery in about.items():
        stands = now.get(delivery.delivery_id)
        reason = None if stands is None else _overtaken(stands, delivery.generation)
        if reason is not None:
            del batch.replays[letter]
            batch.why_not[letter] = reason
    return batch


def _overtaken(stands: Stands, generation: int) -> WhyNot | None:
    """Why a delivery is not to be tried in this generation."""
    if stands.generation >= generation:
        return WhyNot.ALREADY_REPLAYED
    if stands.status is not Status.FAILED and stands.rank >= SENT_RANK:
        return WhyNot.ALREADY_SENT
    return WhyNot.CANCELLED if stands.is_cancelled else None


def _queued(batch: _Batch) -> list[Change]:
    found = [replay.delivery for replay in batch.replays.values() if replay.delivery is not None]
    return [attempts.change(delivery, Status.QUEUED) for delivery in found]


class ReplayRoom(Service):  # type: ignore[misc]
    """The workers' part: does the replays that were asked for over HTTP."""

    def __init__(self, *, engine: AsyncEngine, publisher: Publishes, settings: Settings, **service: Any) -> None:
        super().__init__(**service)
        self._engine = engine
        self._tidy_at = 0.0
        self._reader = LetterReader(settings, name="comms-replays")
        self._replayer = Replayer(engine=engine, publisher=publisher, reader=self._reader)

    async def on_stop(self) -> None:
        """Disconnects; what is left of a replay waits for the next process."""
        await self._reader.stop()

    @Service.task  # type: ignore[untyped-decorator]
    async def _run(self) -> None:
        while not self.should_stop:
            await self.sleep(await self._turn())

    async def _turn(self) -> float:
        """Does one step; returns the seconds until the next."""
        started = time.monotonic()
        try:
            step = await self._replayer.step()
            if step is None:
                await self._tidy()
        except Exception as error:
            if not is_passing(error):
                raise
            log.warning("waiting: a server is away", room="replays", error=type(error).__name__)
            return _PAUSE_AFTER_ERROR_SECONDS
        if step is None or step.is_finished:
            await self._reader.stop()
        if step is None:
            return max(0.0, _IDLE_SECONDS - (time.monotonic() - started))
        return min(step.wait_seconds, _IDLE_SECONDS)

    async def _tidy(self) -> None:
        """Now and then ends the replays of commands that were killed."""
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + _TIDY_SECONDS
            async with self._engine.begin() as connection:
                await replays.end_abandoned(connection, after=_ABANDONED_AFTER)
