"""The memory of a process: what is asked of the C library and of the collector."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from cli.heap import calm_collector, few_arenas


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    calls: list[tuple[int, int]] = []
    libc = SimpleNamespace(mallopt=lambda *call: calls.append(call))
    monkeypatch.setattr(ctypes, "CDLL", lambda _: libc)
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    return calls


@pytest.fixture
def collector() -> Iterator[None]:
    before = gc.get_threshold()
    yield
    gc.set_threshold(*before)
    gc.unfreeze()


def test_all_threads_share_two_arenas(asked: list[tuple[int, int]]) -> None:
    few_arenas()
    assert asked == [(-8, 2)]


def test_an_operator_may_choose(asked: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "4")
    few_arenas()
    assert asked == []


def test_another_libc_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: SimpleNamespace())
    few_arenas()


def test_the_collector_looks_seldom(collector: None) -> None:
    calm_collector()
    assert gc.get_threshold()[0] == 50_000
    assert gc.get_freeze_count() > 0
