"""The sliding window: one of a key at a time, in order; acknowledged is the contiguous prefix and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from streams.window import SPAN_RECORDS, WAITING_BYTES, WAITING_RECORDS, Entry, Window


def message(offset: int, key: bytes | None = b"u", partition: int = 0, value: bytes = b"v") -> Any:
    return SimpleNamespace(partition=partition, offset=offset, key=key, value=value)


def a_window(*messages: Any) -> Window:
    window = Window()
    fill(window, messages)
    return window


def fill(window: Window, messages: Iterable[Any]) -> None:
    for each in messages:
        window.add(each)


def offsets(messages: list[Any]) -> list[int]:
    return [each.offset for each in messages]


def test_the_next_of_a_user_starts_when_the_call_has_ended() -> None:
    window = a_window(message(0), message(1), message(2, b"other"))
    first = window.take(10)
    assert offsets([entry.message for entry in first]) == [0, 2]
    assert window.take(10) == []
    window.let_next(first[0])
    assert offsets([entry.message for entry in window.take(10)]) == [1]


def test_a_record_without_key_waits_for_nobody() -> None:
    assert a_window(message(0, None), message(1, None)).ready == 2


def test_what_is_behind_an_unfinished_one_is_not_acknowledged() -> None:
    window = a_window(*(message(number, b"%d" % number) for number in range(3)))
    first, second, third = window.take(3)
    assert window.finish([second, third]) == []
    assert window.prefixes() == {}
    assert offsets(window.finish([first])) == [0, 1, 2]
    assert window.prefixes() == {0: 3}
    assert len(window) == 0


def test_partitions_are_acknowledged_on_their_own() -> None:
    window = a_window(message(5, b"a", partition=0), message(9, b"b", partition=1))
    _, second = window.take(2)
    assert offsets(window.finish([second])) == [9]
    assert window.prefixes() == {1: 10}


def test_one_that_is_put_back_stays_first_of_its_user() -> None:
    window = a_window(message(0), message(1))
    [entry] = window.take(5)
    window.put_back(entry)
    assert window.take(5) == [entry]


def test_after_a_clear_the_old_ones_change_nothing() -> None:
    window = a_window(message(0), message(1))
    [old] = window.take(1)
    window.clear()
    window.add(message(0))
    [new] = window.take(5)
    window.let_next(old)
    window.put_back(old)
    assert (window.ready, window.finish([old]), window.prefixes()) == (0, [], {})
    assert offsets(window.finish([new])) == [0]


def test_a_long_chain_fills_its_own_partition_only() -> None:
    window = a_window(message(0, b"other", partition=1))
    fill(window, (message(number) for number in range(WAITING_RECORDS + 1)))
    assert (window.is_full(0), window.is_full(1)) == (True, False)
    window.let_next(window.take(2)[1])
    window.take(1)
    assert not window.is_full(0)


def test_a_partition_far_behind_its_first_is_full() -> None:
    window = Window()
    for number in range(8):
        window.add(message(0, b"slow", partition=number))
    fill(window, (message(number, b"%d" % number) for number in range(1, SPAN_RECORDS + 1)))
    entries = window.take(SPAN_RECORDS * 2)
    window.finish(entry for entry in entries if entry.message.offset > 0)
    assert (window.is_full(0), window.is_full(1)) == (True, False)
    window.finish(entries)
    assert not window.is_full(0)


def test_memory_bounds_what_waits() -> None:
    window = a_window(message(0, value=bytes(WAITING_BYTES)))
    assert not window.has_room
    window.take(1)
    assert window.has_room


def test_a_done_one_holds_no_content() -> None:
    window = a_window(message(0, b"a"), message(1, b"b"))
    _, second = window.take(2)
    window.finish([second])
    assert second.message.value is None


class Model(RuleBasedStateMachine):
    """Any interleaving of what a lane does, against the plain meaning of it."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window()
        self.next_offset = [0, 0]
        self.taken: list[Entry] = []
        self.called: list[Entry] = []
        self.started: dict[tuple[int, bytes], list[int]] = {}
        self.finished: set[tuple[int, int]] = set()
        self.acknowledged: list[list[int]] = [[], []]

    @rule(keys=st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=5), partition=st.integers(0, 1))
    def feed(self, keys: list[bytes], partition: int) -> None:
        for key in keys:
            self.window.add(message(self.next_offset[partition], b"%d%s" % (partition, key), partition))
            self.next_offset[partition] += 1

    @rule(most=st.integers(1, 4))
    def take(self, most: int) -> None:
        for entry in self.window.take(most):
            assert all(other.key != entry.key for other in self.taken), "two of one key at a time"
            self.taken.append(entry)

    @precondition(lambda self: self.taken)
    @rule(seed=st.integers(), again=st.booleans())
    def end_call(self, seed: int, again: bool) -> None:
        entry = self.taken.pop(random.Random(seed).randrange(len(self.taken)))
        if again:
            self.window.put_back(entry)
            return
        started = self.started.setdefault((entry.message.partition, entry.key), [])  # type: ignore[arg-type]
        assert not started or started[-1] < entry.message.offset, "out of order"
        started.append(entry.message.offset)
        self.window.let_next(entry)
        self.called.append(entry)

    @precondition(lambda self: self.called)
    @rule(seed=st.integers())
    def finish(self, seed: int) -> None:
        dice = random.Random(seed)
        some = [entry for entry in self.called if dice.random() < 0.7]
        self.called = [entry for entry in self.called if entry not in some]
        self.finished |= {(entry.message.partition, entry.message.offset) for entry in some}
        for each in self.window.finish(some):
            self.acknowledged[each.partition].append(each.offset)

    @rule()
    def rebalance(self) -> None:
        """Read again from the committed offsets."""
        self.window.clear()
        self.taken, self.called, self.started = [], [], {}
        for partition in (0, 1):
            first, end = len(self.acknowledged[partition]), self.next_offset[partition]
            self.finished -= {(partition, offset) for offset in range(first, end)}
            fill(self.window, (message(offset, b"%da" % partition, partition) for offset in range(first, end)))

    @invariant()
    def acknowledged_is_the_contiguous_prefix(self) -> None:
        for partition, acknowledged in enumerate(self.acknowledged):
            assert acknowledged == list(range(len(acknowledged)))
            assert {(partition, offset) for offset in acknowledged} <= self.finished
            assert (partition, len(acknowledged)) not in self.finished, "the prefix goes as far as it can"

    @invariant()
    def it_counts_what_is_not_acknowledged(self) -> None:
        assert len(self.window) == sum(self.next_offset) - sum(len(each) for each in self.acknowledged)


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


@given(st.data())
def test_everything_ends_acknowledged(data: st.DataObject) -> None:
    keys = data.draw(st.lists(st.sampled_from([b"a", b"b", None]), min_size=1, max_size=40))
    window = a_window(*(message(number, key) for number, key in enumerate(keys)))
    done: list[int] = []
    while window.ready:
        entries = window.take(data.draw(st.integers(1, 3)))
        for entry in data.draw(st.permutations(entries)):
            window.let_next(entry)
            done += offsets(window.finish([entry]))
    assert done == list(range(len(keys)))
