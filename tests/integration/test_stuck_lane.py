"""A process in which a lane hangs is ended, one in which lanes hold is not; also where the lane itself can't tell."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from streams.lane_watch import Ends, LaneWatch, is_member
from streams.lanes import Lane, LaneApp, build_app
from streams.records import Outgoing
from streams.topics import send_topic
from streams.watchdog import STUCK_EXIT_CODE, Watchdog, progress_of
from tests.fixtures.service import Service

_PROCESS = """
import asyncio, sys, time
from streams.watchdog import Watchdog, progress_of

async def main(how):
    Watchdog(limit_seconds=2).start()
    lane = progress_of("send-email-low")
    with lane.working():
        if how == "holds":
            with lane.holding("provider"):
                await asyncio.sleep(5)
        elif how == "moves":
            for _ in range(50):
                await asyncio.sleep(0.1)
                lane.beat()
        elif how == "hangs":
            await asyncio.Event().wait()
        else:
            time.sleep(60)

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("how", "code", "named"),
    [
        ("holds", 0, None),
        ("moves", 0, None),
        ("hangs", STUCK_EXIT_CODE, "send-email-low"),
        ("blocks", STUCK_EXIT_CODE, "event-loop"),
    ],
)
def test_a_process_with_a_stuck_lane_ends(how: str, code: int, named: str | None) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _PROCESS, how], capture_output=True, text=True, timeout=40, check=False
    )
    assert done.returncode == code, done.stderr
    if named is not None:
        assert named in done.stdout + done.stderr


class Reader:
    """A lane's work that takes records in, or waits for ever."""

    def __init__(self) -> None:
        self.may_read = asyncio.Event()
        self.may_read.set()

    def start(self, app: LaneApp) -> None:
        """Nothing runs beside."""

    def feed(self, event: Any) -> bool:
        if self.may_read.is_set():
            event.ack()
        return self.may_read.is_set()

    async def room(self) -> None:
        await self.may_read.wait()

    async def quiesce(self, app: LaneApp) -> None:
        """Nothing is in hand."""


class Watched:
    """A lane on a real broker, looked at as the worker does, by a dog that does not wait for a minute."""

    def __init__(self, service: Service, app: LaneApp, reader: Reader) -> None:
        self._service = service
        self.app = app
        self.reader = reader
        self.bitten: list[str] = []
        self._watch = LaneWatch([app], Ends(service.settings))
        self.progress = progress_of("send-push-low")
        self._dog = Watchdog(
            lanes=lambda: [self.progress], limit_seconds=4, end=lambda name, seconds: self.bitten.append(name)
        )

    async def close(self) -> None:
        await self._watch.close()

    async def put(self, count: int) -> None:
        records = [Outgoing(send_topic("push", "low"), b"k", b"%d" % number) for number in range(count)]  # type: ignore[arg-type]
        await self._service.publisher.send_all(records)

    async def watch(self, looks: int) -> None:
        for _ in range(looks):
            await self._watch.look()
            self._dog.look(1.0)

    async def until(self, condition: Any, *, within_seconds: float = 30.0) -> None:
        async with asyncio.timeout(within_seconds):
            while not condition():
                await self._watch.look()
                await asyncio.sleep(0.1)


@pytest.fixture
async def watched(service: Service) -> AsyncIterator[Watched]:
    reader = Reader()
    lane = Lane(
        name="send-push-low",
        topic=send_topic("push", "low"),  # type: ignore[arg-type]
        work=lambda: reader,
        ahead_records=100,
    )
    app = build_app(lane, service.settings)
    progress_of(lane.name).lags = False
    await app.start()
    watched = Watched(service, app, reader)
    await watched.until(lambda: is_member(app) and app.consumer.assignment())
    yield watched
    await watched.close()
    reader.may_read.set()
    await app.stop()


async def test_a_lane_that_reads_is_left_in_peace(watched: Watched) -> None:
    await watched.put(100)
    await watched.until(lambda: watched.progress.beats > 0 and not watched.progress.lags)
    await watched.watch(10)
    assert watched.bitten == []


async def test_a_lane_that_has_lag_and_reads_nothing_is_bitten(watched: Watched) -> None:
    watched.reader.may_read.clear()
    await watched.put(100)
    await watched.until(lambda: watched.progress.lags)
    await watched.watch(8)
    assert watched.bitten[0] == "send-push-low"


async def test_a_lane_that_is_in_no_group_is_bitten(watched: Watched) -> None:
    """What aiokafka does with a consumer that was not polled for too long: it leaves, and nothing brings it back."""
    watched.app.consumer._thread._consumer._coordinator._max_poll_interval = -1.0
    await watched.until(lambda: not is_member(watched.app))
    await watched.watch(8)
    assert watched.bitten[0] == "send-push-low"
