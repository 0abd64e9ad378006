"""The key-ordered sliding window of a channel lane: who may start, and what may be acknowledged.

Records of one key (a user) start one after the other, those of different keys beside each other; a record is done when
all that it caused is durable, in any order; and only the contiguous prefix of each partition is acknowledged, so
that a crash repeats what was behind a slow one and loses nothing. This is the shape of Confluent's Parallel Consumer by
key (https://github.com/confluentinc/parallel-consumer). No I/O here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from streams.conditions import Conditions

#: Records of a partition that may wait for their turn. A partition with more is not read on: one user with a long
#: chain must not take the room of all others.
WAITING_RECORDS = 250
#: Records of a partition behind its first unfinished one: what comes in a provider's longest call at full speed.
SPAN_RECORDS = 2_000
#: The same over all partitions, for a lane that has few of them.
SPAN_RECORDS_IN_ALL = 10_000
#: What waits in memory, whatever the records' size.
WAITING_BYTES = 32 * 1024 * 1024


class Entry:
    """A record in the window."""

    __slots__ = ("epoch", "is_done", "is_waiting", "key", "message", "size_bytes")

    def __init__(self, message: Any, epoch: int) -> None:
        self.message = message
        self.epoch = epoch
        #: A record without key is a chain of its own.
        self.key: object = message.key if message.key is not None else object()
        self.size_bytes = len(message.value or b"")
        self.is_waiting = True
        self.is_done = False


class _Partition:
    """A partition's records from the first unfinished one on."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.waiting = 0
        #: The offset behind the acknowledged prefix; None while nothing was.
        self.next_offset: int | None = None


class Window:
    """All records of a lane between the stream and their acknowledgement."""

    def __init__(self) -> None:
        #: Told whenever something happened that somebody may wait for.
        self.conditions = Conditions()
        self._epoch = 0
        self._partitions: dict[int, _Partition] = {}
        self._chains: dict[object, deque[Entry]] = {}
        self._ready: deque[Entry] = deque()
        self._waiting_bytes = 0
        self._records = 0

    def __len__(self) -> int:
        """Records that are not acknowledged yet."""
        return self._records

    @property
    def ready(self) -> int:
        """How many records may start now: at most one of each key."""
        return len(self._ready)

    @property
    def has_room(self) -> bool:
        """Whether memory allows more to wait."""
        return self._waiting_bytes < WAITING_BYTES

    def add(self, message: Any) -> None:
        """Takes a record in, in the order of its partition."""
        entry = Entry(message, self._epoch)
        partition = self._partitions.get(message.partition)
        if partition is None:
            partition = self._partitions[message.partition] = _Partition()
        partition.entries.append(entry)
        partition.waiting += 1
        self._records += 1
        self._waiting_bytes += entry.size_bytes
        chain = self._chains.get(entry.key)
        if chain is None:
            self._chains[entry.key] = deque((entry,))
            self._ready.append(entry)
            self.conditions.notify()
        else:
            chain.append(entry)

    def take(self, most: int) -> list[Entry]:
        """The records that may start, longest ready first; each is its key's only one until `let_next`."""
        taken = [self._ready.popleft() for _ in range(min(most, len(self._ready)))]
        for entry in taken:
            if entry.is_waiting:
                entry.is_waiting = False
                self._waiting_bytes -= entry.size_bytes
                self._partitions[entry.message.partition].waiting -= 1
        return taken

    def put_back(self, entry: Entry) -> None:
        """A record that was taken and must be asked for again; it stays first of its key."""
        if entry.epoch == self._epoch:
            self._ready.append(entry)
            self.conditions.notify()

    def let_next(self, entry: Entry) -> None:
        """The next record of its key may start."""
        if entry.epoch != self._epoch:
            return
        chain = self._chains[entry.key]
        chain.popleft()
        if chain:
            self._ready.append(chain[0])
            self.conditions.notify()
        else:
            del self._chains[entry.key]

    def finish(self, entries: Iterable[Entry]) -> list[Any]:
        """All that these caused is durable; returns the messages that may now be acknowledged, in order."""
        touched = set()
        for entry in entries:
            if entry.epoch == self._epoch:
                entry.is_done = True
                entry.message.value = None  # it may stay long behind a slow one
                touched.add(entry.message.partition)
        acknowledged = []
        for number in touched:
            partition = self._partitions[number]
            while partition.entries and partition.entries[0].is_done:
                message = partition.entries.popleft().message
                partition.next_offset = message.offset + 1
                acknowledged.append(message)
        self._records -= len(acknowledged)
        self.conditions.notify()
        return acknowledged

    def is_full(self, number: int) -> bool:
        """Whether a partition should not be read on for now."""
        partition = self._partitions.get(number)
        if partition is None:
            return False
        span = max(SPAN_RECORDS, SPAN_RECORDS_IN_ALL // len(self._partitions))
        return partition.waiting >= WAITING_RECORDS or len(partition.entries) >= span

    def prefixes(self) -> dict[int, int]:
        """By partition the offset behind all that is acknowledged, where anything was."""
        return {
            number: partition.next_offset
            for number, partition in self._partitions.items()
            if partition.next_offset is not None
        }

    def clear(self) -> None:
        """Forgets everything: the partitions are somebody else's now. What is under way ends without effect here."""
        self._epoch += 1
        self._partitions.clear()
        self._chains.clear()
        self._ready.clear()
        self._waiting_bytes = 0
        self._records = 0
        self.conditions.notify()
