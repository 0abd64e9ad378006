"""How a channel lane sends: a sliding window between two loops.

The first loop takes what may start, as much as the provider and the limits allow, claims it in one statement, and
starts a call for each. The second records what came of them in batches, tells it, and acknowledges the
contiguous prefix. A slow call holds up its own user and nobody else; a provider that refuses everybody holds the lane,
in place: nothing circulates, no attempt is burnt.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import structlog

from models.enums import Channel, Outcome, Priority
from models.repositories.deliveries import AttemptKey, Claim
from streams.agents.deliveries import Called, DeliveryStage, Results, Taken
from streams.channels.asked import Calls
from streams.channels.chain import Hold, Turn
from streams.channels.pace import Paces
from streams.conditions import Condition
from streams.metrics import BATCH_SECONDS, QUEUE_AGE, RECORDS
from streams.records import from_message
from streams.topics import send_topic
from streams.turns import in_turns
from streams.watchdog import progress_of
from streams.window import Entry, Window

log = structlog.get_logger()

#: Claims of one statement, and outcomes of one transaction.
_BATCH_RECORDS = 128
#: Calls begun in one turn of the loop, some 150 µs each: a whole batch would hold an urgent lane up. Bulk gives way
#: most often, for a twentieth of its rate.
_STARTS_A_TURN = {Priority.HIGH: 8, Priority.NORMAL: 8, Priority.LOW: 4}
#: A batch of no more than this says that the lane is quiet, and that nothing is won by waiting for a fuller one.
_TINY_BATCH = 16
#: An attempt that somebody else holds is asked for again so often, until it has an outcome or its lease ends.
_ASK_AGAIN_SECONDS = 1.0
#: So soon a limit that was changed is noticed.
_LONGEST_PAUSE_SECONDS = 1.0
#: How long a rebalance waits for the calls under way; then their partitions go, and they end on their own.
_QUIESCE_SECONDS = 1.0
#: How long the end of the process waits for them: a call, and its row.
_DRAIN_SECONDS = 13.0


@dataclass(slots=True)
class _Batch:
    """What the second loop has to record: calls that ended, and records that needed none."""

    entries: list[Entry] = field(default_factory=list)
    called: list[Called] = field(default_factory=list)
    results: Results = field(default_factory=Results)


@dataclass(frozen=True, slots=True)
class _Refused:
    """A call that no provider would take from anybody: the claim is given back."""

    entry: Entry
    taken: Taken
    claim: Claim
    #: It alone waits so long; None where the whole chain does.
    wait: timedelta | None


class Sender:
    """The work of one channel lane. Both loops raise only when the process had better end."""

    def __init__(
        self,
        *,
        channel: Channel,
        priority: Priority,
        stage: DeliveryStage,
        chain: Calls,
        limits: Paces,
        lease_seconds: float,
        linger_seconds: float = 0.0,
        patience_seconds: float,
    ) -> None:
        self.window = Window()
        self._channel = channel
        self._priority = priority
        self._topic = send_topic(channel, priority)
        self._lane = f"send-{channel}-{priority}"
        self._stage = stage
        self._chain = chain
        self._limits = limits
        self._slots = chain.call_slots
        self._lease_seconds = lease_seconds
        self._linger_seconds = linger_seconds
        self._patience_seconds = patience_seconds
        self._starts_a_turn = _STARTS_A_TURN[priority]
        self._is_quiet = False
        self._is_claiming = False
        #: Calls without a recorded outcome: what a crash now would leave unknown.
        self._in_doubt = 0
        #: Records taken from the batch and not told yet.
        self._untold = 0
        self._batch = _Batch()
        self._refused: list[_Refused] = []
        self._telling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None
        self._acknowledge: Callable[[Sequence[Any]], None] = lambda messages: None
        self._age = QUEUE_AGE.labels(self._lane)
        self._progress = progress_of(self._lane)
        self._progress.watch(lambda: len(self.window) > 0)

    def start(
        self, run: Callable[[Coroutine[Any, Any, None]], object], acknowledge: Callable[[Sequence[Any]], None]
    ) -> None:
        """Begins both loops by `run`; `acknowledge` is told the messages of the contiguous prefix, in order."""
        self._acknowledge = acknowledge
        run(self.start_calls())
        run(self.finish_calls())

    # The first loop

    async def start_calls(self) -> None:
        """Claims what may start and starts its calls, for ever."""
        last = 0
        while True:
            await self._until(lambda: self._room > 0)
            await self._until(lambda: self._room >= _BATCH_RECORDS, seconds=self._wait_after(last))
            last = await self._start_some()

    def _wait_after(self, last: int) -> float:
        """How long to wait for a fuller batch: where the last one was no tiny one, more are on their way."""
        return self._patience_seconds if last > _TINY_BATCH else self._linger_seconds

    @property
    def _room(self) -> int:
        """How many calls may start now."""
        return 0 if self._is_quiet else min(self.window.ready, self._slots - self._in_doubt, _BATCH_RECORDS)

    async def _start_some(self) -> int:
        """One claim's worth of calls; returns how many records it took."""
        turn = self._chain.pick(max(1, self._room), self._priority)
        if isinstance(turn, Hold):
            with self._progress.holding(turn.reason):
                await self._chain.wait(turn.until)
            return 0
        grant = await self._limits.take(self._channel, turn.provider.name, self._priority, turn.calls)
        entries = self.window.take(grant.granted) if not self._is_quiet else []
        self._is_claiming = bool(entries)
        called = await self._claim(turn, entries) if entries else 0
        self._is_claiming = False
        await self._give_back(turn, grant.granted, called)
        self._progress.beat()
        if grant.is_held:
            self._chain.hold(turn.provider.name, grant.wait_seconds)
        elif not grant.granted:
            with self._progress.holding("pace"):
                await asyncio.sleep(min(grant.wait_seconds, _LONGEST_PAUSE_SECONDS))
        return len(entries)

    async def _give_back(self, turn: Turn, granted: int, called: int) -> None:
        if called < turn.calls:
            self._chain.give_back(turn, turn.calls - called)
        if called < granted:
            await self._limits.give_back(self._channel, turn.provider.name, granted - called)

    async def _claim(self, turn: Turn, entries: Sequence[Entry]) -> int:
        """Claims these and starts the calls of those that were won; returns how many that are."""
        started = time.monotonic()
        batch = _Batch()
        taken = await self._read(entries, batch)
        claims = await self._stage.claim([one for _, one in taken], batch.results)
        won = 0
        for entry, one in taken:
            claim = claims.get(one.key)
            if claim is not None and claim.won:
                won += 1
                self._in_doubt += 1
                self._spawn(self._call(turn, entry, one, claim, started))
                if won % self._starts_a_turn == 0:
                    await asyncio.sleep(0)
            elif claim is not None and claim.is_leased:
                # Somebody has the attempt, maybe this process since a moment ago.
                self._put_back(entry, _ASK_AGAIN_SECONDS)
            else:
                if claim is not None:
                    self._stage.settle(one, claim, batch.results)
                self._settled(entry, batch)
        self._batch.entries += batch.entries
        self._batch.results.add(batch.results)
        self.window.conditions.notify()
        BATCH_SECONDS.labels(self._lane, "claim").observe(time.monotonic() - started)
        return won

    async def _read(self, entries: Sequence[Entry], batch: _Batch) -> list[tuple[Entry, Taken]]:
        """Decodes; what can't be read is settled at once."""
        taken: dict[AttemptKey, tuple[Entry, Taken]] = {}
        now_ms = time.time() * 1000
        async for entry in in_turns(entries):
            record = from_message(self._topic, entry.message)
            self._age.observe(max(0.0, now_ms - record.timestamp_ms) / 1000)
            one = self._stage.read(record, batch.results)
            if one is None:
                self._settled(entry, batch)
            elif one.key in taken:  # under another key, so not ours: one claim can't ask for the same twice
                self.window.put_back(entry)
            else:
                taken[one.key] = (entry, one)
        return list(taken.values())

    def _settled(self, entry: Entry, batch: _Batch) -> None:
        batch.entries.append(entry)
        self.window.let_next(entry)

    def _put_back(self, entry: Entry, seconds: float) -> None:
        """It stays first of its user and is asked for again."""
        if seconds > 0:
            asyncio.get_running_loop().call_later(seconds, self.window.put_back, entry)
        else:
            self.window.put_back(entry)

    async def _call(self, turn: Turn, entry: Entry, one: Taken, claim: Claim, claimed_at: float) -> None:
        seconds_left = self._lease_seconds - (time.monotonic() - claimed_at)
        result = await self._chain.call(turn, one.delivery, seconds_left=seconds_left, take=self._take_one)
        if result.outcome is Outcome.BROKEN:
            self._refused.append(_Refused(entry, one, claim, result.retry_after))
        else:
            self._batch.entries.append(entry)
            self._batch.called.append(Called(one, self._stage.attempt(one.delivery, claim, result)))
            self.window.let_next(entry)
        self.window.conditions.notify()

    async def _take_one(self, provider: str) -> bool:
        """A token for a fail-over."""
        grant = await self._limits.take(self._channel, provider, self._priority, 1)
        return grant.granted == 1

    # The second loop

    async def finish_calls(self) -> None:
        """Records what came of calls, tells it and acknowledges, for ever."""
        last = 0
        while True:
            await self._until(lambda: bool(self._batch.entries or self._refused))
            await self._until(lambda: len(self._batch.entries) >= _BATCH_RECORDS, seconds=self._wait_after(last))
            last = len(self._batch.entries)
            await self._release()
            await self._finish()

    async def _release(self) -> None:
        """Gives back the claims of calls that no provider took; their records wait for better times."""
        refused, self._refused = self._refused, []
        if refused:
            await self._stage.release([(each.taken, each.claim) for each in refused])
            self._in_doubt -= len(refused)
            for each in refused:
                self._put_back(each.entry, each.wait.total_seconds() if each.wait else 0.0)
            self.window.conditions.notify()

    async def _finish(self) -> None:
        batch, self._batch = self._batch, _Batch()
        if not batch.entries:
            return
        self._untold += len(batch.entries)
        started = time.monotonic()
        results = await self._stage.record(batch.called, batch.results)
        self._in_doubt -= len(batch.called)
        self.window.conditions.notify()
        BATCH_SECONDS.labels(self._lane, "record").observe(time.monotonic() - started)
        if self._telling is not None:
            await asyncio.wait([self._telling])
            self._raise_failure()
        self._telling = self._spawn(self._tell(batch.entries, results))

    async def _tell(self, entries: Sequence[Entry], results: Results) -> None:
        """Beside the recording of the next batch, but never two at once: a user's events keep their order."""
        started = time.monotonic()
        await self._stage.tell(results)
        self._untold -= len(entries)
        self._acknowledge(self.window.finish(entries))
        self._progress.beat()
        BATCH_SECONDS.labels(self._lane, "tell").observe(time.monotonic() - started)
        RECORDS.labels(self._lane).inc(len(entries))

    # The end

    async def quiesce(self, *, is_ending: bool) -> dict[int, int]:
        """Starts nothing more and waits for what is under way; returns by partition the offset to commit.

        On a rebalance the window is empty afterwards: what still runs is recorded and told, but never acknowledged,
        and whoever has its partition finds the claim.
        """
        self._is_quiet = True
        is_idle = await self._until(lambda: self._is_idle, seconds=_DRAIN_SECONDS if is_ending else _QUIESCE_SECONDS)
        if not is_idle:
            log.info("letting go of calls under way", lane=self._lane, calls=self._in_doubt)
        prefixes = self.window.prefixes()
        if not is_ending:
            self.window.clear()
            self._is_quiet = False
        return prefixes

    @property
    def _is_idle(self) -> bool:
        return not (self._is_claiming or self._in_doubt or self._untold or self._batch.entries or self._refused)

    # What both are made of

    async def _until(self, condition: Condition, *, seconds: float | None = None) -> bool:
        """Waits for a condition, at most so long; whether it held. Raises what ended a task."""
        held = await self.window.conditions.until(lambda: self._failure is not None or condition(), seconds=seconds)
        self._raise_failure()
        return held

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failure = error
            self.window.conditions.notify()
