"""One worker process: opens what the lanes share, runs them, and ends when told to or when one of them crashed."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from mode import Service

from models.enums import Channel
from models.session import create_engine
from models.settings import Settings
from streams.app import Parts, build_services, chosen_names
from streams.bootstrap import cluster_id
from streams.clock import keep_set, set_clock
from streams.errors import persistently
from streams.lane_watch import watch_lanes
from streams.people_versions import open_people
from streams.producer import Publisher
from streams.provider_states import ProviderStates
from streams.providers.registry import build_chain
from streams.rate_limits import open_rate_limits
from streams.readiness import migrated
from streams.realtime import RedisAnnouncer, StoredInbox, connect_redis
from streams.watchdog import Watchdog

log = structlog.get_logger()

#: What may take longest at the end: the provider calls in flight, then their rows.
_STOP_SECONDS = 15.0
#: Closing what the lanes shared.
_CLOSE_SECONDS = 4.0


async def run(settings: Settings, only: Sequence[str] = ()) -> None:
    """Runs lanes until SIGTERM or SIGINT. Ends the process with 1 when a lane crashed, with STUCK_EXIT_CODE when one
    hangs: a supervisor starts it again.

    Raises:
        Refused: when `only` or a provider's setting is wrong.
    """
    names = chosen_names(only)
    Watchdog().start()
    told = asyncio.create_task(_on_signal().wait())
    started = asyncio.Event()
    running = asyncio.create_task(_run(settings, names, told, started))
    await asyncio.wait([told, running], return_when=asyncio.FIRST_COMPLETED)
    patience = _STOP_SECONDS + _CLOSE_SECONDS if started.is_set() else 0.0
    await asyncio.wait([running], timeout=patience)
    if not running.done():  # it waits for a server that is away, and holds nothing that isn't read again
        log.warning("worker ends without a server it waited for")
        os._exit(1)
    running.result()


async def _run(settings: Settings, names: set[str], told: asyncio.Task[bool], started: asyncio.Event) -> None:
    async with open_parts(settings) as parts:
        services = build_services(parts, names)
        started.set()
        await asyncio.gather(*(service.start() for service in services))
        log.info("worker ready", lanes=len(services))
        watch = asyncio.create_task(watch_lanes(services, settings))
        ended = [asyncio.create_task(service.wait_until_stopped()) for service in services]
        await asyncio.wait([told, *ended], return_when=asyncio.FIRST_COMPLETED)
        crashed = [service for service in services if service.crashed]
        log.info("worker stopping", crashed=[service.label for service in crashed])
        for task in (watch, *ended):
            task.cancel()
        # One that crashed would wait for records that it will never acknowledge.
        await stop_all([service for service in services if not service.crashed])
    if crashed:  # its threads would keep the process alive
        os._exit(1)


@asynccontextmanager
async def open_parts(settings: Settings) -> AsyncIterator[Parts]:
    """Everything the lanes share, opened; waits for Kafka and Postgres, because nothing can be done before."""
    async with AsyncExitStack() as stack:
        engine = create_engine(settings, name="comms-worker", check_before_use=False)
        stack.push_async_callback(engine.dispose)
        redis = connect_redis(settings)
        stack.push_async_callback(redis.aclose)
        inbox = StoredInbox(engine)
        announcer = RedisAnnouncer(redis, key_prefix=settings.redis_key_prefix)
        chains = {channel: build_chain(channel, settings, inbox=inbox, announcer=announcer) for channel in Channel}
        for provider in (provider for chain in chains.values() for provider in chain):
            await provider.open()
            stack.push_async_callback(provider.close)
        publisher = Publisher(settings, name="comms-worker")
        await publisher.start()
        stack.push_async_callback(publisher.stop)
        await publisher.connected()
        cluster = await persistently(lambda: cluster_id(settings), lane="worker")
        await persistently(lambda: migrated(engine, settings), lane="worker")
        await persistently(lambda: set_clock(engine), lane="worker")
        clock = asyncio.create_task(keep_set(engine))
        stack.callback(clock.cancel)
        people = await stack.enter_async_context(open_people(settings))
        limits = await stack.enter_async_context(open_rate_limits(settings, engine))
        yield Parts(
            settings=settings,
            engine=engine,
            publisher=publisher,
            providers=chains,
            cluster_id=cluster,
            limits=limits,
            slots=limits,
            people=people,
            states=ProviderStates(redis, key_prefix=settings.redis_key_prefix),
        )


async def stop_all(services: Sequence[Service]) -> None:
    """Stops the lanes beside each other; each finishes the batch it holds.

    One that doesn't end in time (mode shields its stopping from cancellation) ends with the process.
    """
    stops = [asyncio.create_task(service.stop()) for service in services]
    _, pending = await asyncio.wait(stops, timeout=_STOP_SECONDS)
    if pending:
        log.warning("lanes did not stop in time; what they held is read again", lanes=len(pending))
        os._exit(1)


def _on_signal() -> asyncio.Event:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    return stopping
