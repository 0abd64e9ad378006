"""A provider in trouble: what it asks for is kept, what it breaks is repaired, and nobody else is held up.

The sink notes when each call began, so "no call for 20 s" is read from its ledger. The short forms run with the suite,
the long ones by `make chaos`; both print their figures.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest

from bench.arrivals import inbox_waits
from bench.load import Acknowledged, email_request, in_app_request, paced, percentile
from bench.system import System, running_system
from models.enums import Channel
from models.ids import delivery_id
from models.settings import RetryPolicy, Settings
from streams.domain.retry import AMBIGUOUS_REPEATS
from streams.topics import DEAD_LETTERS
from tests.e2e.test_faults import SLOTS, Outcome, _settle
from tests.fixtures.records import raw_client

PARTITIONS = 4
#: Retries come quickly here: waits of 0.25 to 0.5 s after the first attempt, 4 to 8 s after the fifth.
QUICK = RetryPolicy(base_seconds=0.25)
#: Provider calls end after this.
QUICK_TIMEOUT_SECONDS = 4.0


@asynccontextmanager
async def service(home: Path, **settings: str) -> AsyncIterator[System]:
    async with running_system(home, KAFKA_PARTITIONS=str(PARTITIONS), **settings) as running:
        yield running


@pytest.fixture(scope="module")
async def quick(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    """A service for the short forms; each leaves its provider in good health."""
    settings = {
        "EMAIL_RETRY__BASE_SECONDS": str(QUICK.base_seconds),
        "PROVIDER_TIMEOUT_SECONDS": str(QUICK_TIMEOUT_SECONDS),
    }
    async with service(tmp_path_factory.mktemp("trouble") / "home", **settings) as running:
        yield running


def starts(ledger: dict[str, Any], noted: Acknowledged) -> list[float]:
    """When the calls for these began, by the machine's monotonic clock, in order."""
    return sorted(at for name in noted.deliveries() for _, at in ledger.get(name, {}).get("starts", ()))


def disordered(ledger: dict[str, Any], noted: Acknowledged) -> list[str]:
    """Users whose messages the provider took in another order than they were published."""
    taken: dict[str, list[int]] = defaultdict(list)
    for name in noted.deliveries():
        taken[ledger[name]["to"]].append(ledger[name]["order"])
    return [user for user, order in taken.items() if order != sorted(order)]


async def dead_letters(system: System, noted: Acknowledged) -> dict[UUID, int]:
    """How many dead letters each of these has, in the topic itself."""
    settings = Settings(
        kafka_bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"],
        database_url=system.settings["DATABASE_URL"],
        kafka_partitions=PARTITIONS,
    )
    found: dict[UUID, int] = defaultdict(int)
    async with raw_client(settings) as client:
        for letter in await client.read(DEAD_LETTERS):
            about = dict(letter.headers).get("notification-id")
            found[UUID(about.decode()) if about else UUID(orjson.loads(letter.value)["notification_id"])] += 1
    return {one: count for one, count in found.items() if one in noted.at}


async def attempts(system: System, noted: Acknowledged) -> set[int]:
    """The numbers of attempts that the deliveries have come to."""
    async with system.database() as database:
        rows = await database.fetch(
            "SELECT DISTINCT attempts FROM notification_deliveries WHERE notification_id = ANY($1)", list(noted.at)
        )
    return {row["attempts"] for row in rows}


def tell(name: str, outcome: Outcome, **figures: Any) -> None:
    print(json.dumps({"trouble": name, **figures, **vars(outcome)}))


# -- 429 and Retry-After


@pytest.mark.parametrize(
    "seconds", [3, pytest.param(20, marks=[pytest.mark.chaos, pytest.mark.timeout(300)])], ids=["short", "long"]
)
async def test_nobody_calls_before_retry_after_is_over(quick: System, seconds: int) -> None:
    load = asyncio.create_task(paced(quick, 40 * (3 * seconds + 3), per_second=40))
    await asyncio.sleep(1)
    await quick.behave(status=429, headers={"Retry-After": str(seconds)})
    limited = time.monotonic()
    async with asyncio.timeout(20):
        while (await quick.call_starts())[-1:] < [limited]:
            await asyncio.sleep(0.1)
    await asyncio.sleep(2 * seconds + 1.5)
    await quick.behave()
    free = time.monotonic()
    noted = await load
    outcome = await _settle(quick, noted, since=free, within_seconds=60 + 2 * seconds)
    ledger = (await quick.ledger())["ledger"]
    while_limited = [at for at in starts(ledger, noted) if limited < at < free]
    gaps = [after - before for before, after in pairwise([*while_limited, free])]
    quiet = [gap for gap in gaps if gap > 0.5]
    burst = gaps.index(quiet[0]) + 1 if quiet else len(while_limited)
    told = {"calls_before_the_hold": burst, "calls": len(while_limited), "gaps": [round(gap, 2) for gap in quiet]}
    tell("429", outcome, retry_after=seconds, **told)
    assert burst <= SLOTS
    # A gap that ends with the test is not over.
    assert len(quiet) >= 2
    assert all(gap >= seconds for gap in quiet[:-1])
    assert (outcome.lost, outcome.duplicates) == (0, 0)
    assert await dead_letters(quick, noted) == {}


# -- endless 500


@dataclass(frozen=True)
class Failing:
    """An endless 500 for one user, or for everybody."""

    to: str | None
    policy: RetryPolicy
    count: int
    within_seconds: float


SOME = Failing(to="user-7@", policy=QUICK, count=200, within_seconds=60)
ALL = Failing(to=None, policy=RetryPolicy(), count=200, within_seconds=300)


async def test_endless_500_for_some_ends_in_one_dead_letter_each(quick: System) -> None:
    await _fail_endlessly(quick, SOME)


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_endless_500_for_all_ends_in_one_dead_letter_each(tmp_path: Path) -> None:
    async with service(tmp_path / "home") as system:
        await _fail_endlessly(system, ALL)


async def _fail_endlessly(system: System, failing: Failing) -> None:
    await system.behave(status=500, **({"to": failing.to} if failing.to else {}))
    noted = await paced(system, failing.count, per_second=50, make=partial(email_request, users=100))
    outcome = await _settle(system, noted, since=time.monotonic(), within_seconds=failing.within_seconds)
    # What would be a copy of a dead letter, or a call too many, gets its chance.
    await asyncio.sleep(2)
    await system.behave()
    ledger = (await system.ledger())["ledger"]
    by_id = {one: ledger[str(delivery_id(one, Channel.EMAIL))] for one in noted.at}
    failed = [one for one, entry in by_id.items() if failing.to is None or failing.to in entry["to"]]
    times = {one: [at for _, at in by_id[one]["starts"]] for one in failed}
    gaps = {one: [after - before for before, after in pairwise(each)] for one, each in times.items()}
    means = [round(sum(gap) / len(gap), 1) for gap in zip(*gaps.values(), strict=False)]
    tell("500", outcome, failed=len(failed), mean_gaps=means)
    assert outcome.lost == len(failed) >= 2
    assert {len(each) for each in times.values()} == {failing.policy.max_attempts}
    assert await dead_letters(system, noted) == dict.fromkeys(failed, 1)
    for each in gaps.values():
        for tries, gap in enumerate(each, start=1):
            assert gap >= failing.policy.base_seconds * 2**tries / 2
    assert max(means) == means[-1] > 2 * means[0]
    assert all(entry["accepted"] == 1 for one, entry in by_id.items() if one not in times)


# -- credentials refused


@pytest.mark.parametrize(
    ("seconds", "per_second"),
    [
        (10.0, 40.0),
        pytest.param(600.0, 20.0, marks=[pytest.mark.chaos, pytest.mark.timeout(1200)]),
    ],
    ids=["short", "long"],
)
async def test_refused_credentials_burn_nothing(quick: System, seconds: float, per_second: float) -> None:
    before = await paced(quick, 20, per_second=40)
    await _settle(quick, before, since=time.monotonic(), within_seconds=30)
    await quick.behave(status=401)
    refused = time.monotonic()
    noted = await paced(
        quick, round(seconds * per_second), per_second=per_second, make=partial(email_request, users=50)
    )
    await asyncio.sleep(max(0.0, refused + seconds - time.monotonic()))
    calls = len(starts((await quick.ledger())["ledger"], noted))
    sent = [one for one in noted.deliveries() if (await quick.ledger())["ledger"].get(one, {}).get("accepted")]
    await quick.behave()
    well = time.monotonic()
    outcome = await _settle(quick, noted, since=well, within_seconds=90)
    ledger = (await quick.ledger())["ledger"]
    tell("401", outcome, refused_seconds=seconds, calls_while_refused=calls)
    assert sent == []
    # Those that were on their way when the first was refused; then a probe now and then.
    assert calls <= SLOTS + seconds / 5 + 2
    assert (outcome.lost, outcome.duplicates) == (0, 0)
    assert await attempts(quick, noted) == {1}
    assert await dead_letters(quick, noted) == {}
    assert disordered(ledger, noted) == []


# -- slow and hung calls


async def test_a_few_slow_calls_hold_up_only_their_users(quick: System) -> None:
    """At 100/s one call of a hundred takes 3.5 s: a lane that waited for each would be hours behind."""
    await quick.behave(latency_ms=3_500, share=0.01)
    noted = await paced(quick, 1_000, per_second=100, make=partial(email_request, users=500))
    outcome = await _settle(quick, noted, since=time.monotonic(), within_seconds=30)
    await quick.behave()
    ledger = (await quick.ledger())["ledger"]
    waits = [ledger[name]["first_at"] - at for name, at in noted.deliveries().items()]
    tell("slow", outcome, wait_p50=round(percentile(waits, 0.5), 3), wait_p95=round(percentile(waits, 0.95), 3))
    assert (outcome.lost, outcome.duplicates) == (0, 0)
    assert disordered(ledger, noted) == []
    assert percentile(waits, 0.95) < 1.5


@pytest.mark.timeout(300)
async def test_a_hung_provider_holds_up_nobody_else(quick: System) -> None:
    """Its own messages wait for it; in-app messages don't. What was given up after two calls without an answer may have
    been sent, and has its dead letter."""
    healthy, _ = await _in_app_beside_emails(quick)
    await quick.behave(latency_ms=20_000)
    hung, emails = await _in_app_beside_emails(quick)
    await quick.behave()
    outcome = await _settle(quick, emails, since=time.monotonic(), within_seconds=60)
    given_up = await dead_letters(quick, emails)
    waits = {"healthy_p95": round(percentile(healthy, 0.95), 3), "hung_p95": round(percentile(hung, 0.95), 3)}
    tell("hung", outcome, given_up=len(given_up), **waits)
    # Below a tenth of a second the machine says more than the service.
    assert waits["hung_p95"] <= 2 * max(waits["healthy_p95"], 0.1)
    ledger = (await quick.ledger())["ledger"]
    by_id = {one: ledger[str(delivery_id(one, Channel.EMAIL))] for one in emails.at}
    assert [one for one, entry in by_id.items() if not entry["accepted"] and given_up.get(one) != 1] == []
    assert {len(by_id[one]["starts"]) for one in given_up} <= {AMBIGUOUS_REPEATS + 1}


async def _in_app_beside_emails(system: System, seconds: float = 7.0) -> tuple[list[float], Acknowledged]:
    emails = asyncio.create_task(paced(system, round(seconds * 20), per_second=20))
    noted = await paced(system, round(seconds * 100), per_second=100, make=in_app_request)
    async with system.database() as database, asyncio.timeout(20):
        while await database.fetchval(
            "SELECT count(*) FROM notifications WHERE id = ANY($1) AND status = 'sent'", list(noted.at)
        ) < len(noted.at):
            await asyncio.sleep(0.1)
    return await inbox_waits(system, noted), await emails
