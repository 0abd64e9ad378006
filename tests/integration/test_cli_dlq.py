"""`comms dlq replay` and `export` as an operator uses them, on real servers."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from models.enums import Channel, Outcome
from streams.providers.base import DeliveryResult
from tests.fixtures.service import Ledger, Service, a_request

ROOT = Path(__file__).parents[2]
REFUSE = DeliveryResult(outcome=Outcome.PERMANENT, provider="ledger", reason="550 no")
TAKE = DeliveryResult(outcome=Outcome.SENT, provider="ledger", provider_message_id="m-1")
SECRET = "content that no list may show"


@pytest.fixture(scope="module")
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service, ledger: Ledger) -> AsyncIterator[None]:
    async with service.worker(providers={Channel.EMAIL: (ledger,)}):
        yield


def environment(service: Service) -> dict[str, str]:
    settings = service.settings
    base = {name: value for name, value in os.environ.items() if not name.startswith("COMMS_")}
    return {
        **base,
        "PYTHONPATH": str(ROOT),
        "COMMS_HOME": str(ROOT / "no-such-home"),
        "KAFKA_BOOTSTRAP_SERVERS": settings.kafka_bootstrap_servers,
        "KAFKA_TOPIC_PREFIX": settings.kafka_topic_prefix,
        "DATABASE_URL": settings.database_url.replace("+asyncpg", ""),
        "REDIS_URL": settings.redis_url,
    }


async def dlq(service: Service, *arguments: str) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-P", "-m", "cli.main", "dlq", *arguments],
        env=environment(service),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def failed(service: Service, ledger: Ledger, count: int, **fields: Any) -> list[UUID]:
    """Notifications that the provider refused; from now on it takes them."""
    ledger.answer = lambda _: REFUSE
    requests = [a_request(content={"subject": "S", "text": SECRET}, **fields) for _ in range(count)]
    for request in requests:
        await service.publish(request)
    ids = [UUID(request["id"]) for request in requests]
    async with asyncio.timeout(30):
        while len(await letters(service, ids)) < count:
            await asyncio.sleep(0.05)
    for one in ids:
        await service.until(one, "failed")
    ledger.answer = lambda _: TAKE
    return ids


async def letters(service: Service, ids: Sequence[UUID]) -> list[Any]:
    return await service.fetch("SELECT * FROM delivery_failures WHERE notification_id = ANY(:ids)", ids=list(ids))


async def test_it_counts_asks_and_replays(service: Service, ledger: Ledger) -> None:
    ids = await failed(service, ledger, 3)
    which = ("--error-class", "permanent", "--channel", "email")

    dry = await dlq(service, "replay", *which, "--dry-run", "--json")
    counts = json.loads(dry.stdout)
    assert (counts["matched"], counts["to_replay"]) == (3, 3)
    assert counts["groups"] == [
        {"error_class": "permanent", "channel": "email", "topic": "notification.send.email.normal", "letters": 3}
    ]
    unasked = await dlq(service, "replay", *which, "--reason", "because")
    assert (unasked.returncode, "nobody is there to be asked" in unasked.stderr) == (1, True)
    unexplained = await dlq(service, "replay", *which, "--yes")
    assert (unexplained.returncode, "--yes needs a --reason" in unexplained.stderr) == (1, True)
    unchosen = await dlq(service, "replay", "--yes", "--reason", "x")
    assert (unchosen.returncode, "say --all" in unchosen.stderr) == (1, True)
    assert await service.fetch("SELECT 1 FROM dead_letter_replays") == []

    done = await dlq(service, "replay", *which, "--yes", "--reason", "it is back", "--by", "Grace", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["state"], told["matched"], told["replayed"], told["skipped"]) == ("done", 3, 3, {})
    for one in ids:
        await service.until(one, "sent")
    [entry] = await service.fetch("SELECT * FROM audit_log WHERE action = 'dead_letters_replayed'")
    assert (entry.who, entry.reason) == ("Grace", "it is back")
    assert entry.details["wanted"] == {"error_class": "permanent", "channel": "email"}

    again = await dlq(service, "replay", *which, "--yes", "--reason", "once more")
    assert again.returncode == 0
    assert "3 match, 0 to replay" in again.stdout
    assert "3 not: was replayed before" in again.stdout


async def test_interrupted_it_goes_on_where_it_was(service: Service, ledger: Ledger) -> None:
    ids = await failed(service, ledger, 8)
    named = [row.id for row in await letters(service, ids)]
    command = [*(sys.executable, "-P", "-m", "cli.main", "dlq", "replay", *named), "--yes", "--reason", "r"]
    running = subprocess.Popen(
        [*command, "--rate", "2"], env=environment(service), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    async with asyncio.timeout(30):
        while not any(row.replayed_at for row in await letters(service, ids)):
            await asyncio.sleep(0.05)
    running.send_signal(signal.SIGINT)
    _, told = await asyncio.to_thread(running.communicate, timeout=30)
    assert running.returncode == 1
    assert "the same command goes on with the rest" in told
    before = sum(1 for row in await letters(service, ids) if row.replayed_at)
    assert 0 < before < 8
    [stopped] = await service.fetch("SELECT * FROM dead_letter_replays ORDER BY created_at DESC LIMIT 1")
    assert (stopped.state, stopped.replayed) == ("stopped", before)

    rest = await dlq(service, "replay", *named, "--yes", "--reason", "r", "--json")
    assert json.loads(rest.stdout)["replayed"] == 8 - before
    for one in ids:
        await service.until(one, "sent")
        assert len(ledger.of(one)) == 2


async def test_killed_it_leaves_nothing_that_hinders_the_next(service: Service, ledger: Ledger) -> None:
    ids = await failed(service, ledger, 6)
    named = [row.id for row in await letters(service, ids)]
    command = [*(sys.executable, "-P", "-m", "cli.main", "dlq", "replay", *named), "--yes", "--reason", "r"]
    running = subprocess.Popen(
        [*command, "--rate", "3"], env=environment(service), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(30):
        while not any(row.replayed_at for row in await letters(service, ids)):
            await asyncio.sleep(0.02)
    running.kill()
    await asyncio.to_thread(running.communicate)
    rest = await dlq(service, "replay", *named, "--yes", "--reason", "r", "--json")
    assert json.loads(rest.stdout)["state"] == "done"
    for one in ids:
        await service.until(one, "sent")
        assert len(ledger.of(one)) == 2


async def test_lists_page_and_show_no_content(service: Service, ledger: Ledger) -> None:
    ids = await failed(service, ledger, 5)
    wanted = {row.id for row in await letters(service, ids)}
    found: list[dict[str, Any]] = []
    more: tuple[str, ...] = ()
    while True:
        page = await dlq(service, "list", "--json", "--limit", "2", "--since", "1h", *more)
        shown = json.loads(page.stdout)
        found += shown
        if not page.stderr:
            break
        assert page.stderr.strip() == f"more: --after {shown[-1]['id']}"
        more = ("--after", shown[-1]["id"])
    assert wanted <= {letter["id"] for letter in found}
    assert len({letter["id"] for letter in found}) == len(found)
    one = await dlq(service, "list", "--json", "--notification", str(ids[0]))
    [letter] = json.loads(one.stdout)
    shown = await dlq(service, "show", letter["id"])
    assert "replay" in shown.stdout
    assert "goes back to notification.send.email.normal as replay 1" in shown.stdout
    for told in (shown.stdout, page.stdout):
        assert SECRET not in told
        assert "@example.com" not in told


async def test_an_export_is_byte_for_byte_and_audited(service: Service, ledger: Ledger, tmp_path: Path) -> None:
    ids = await failed(service, ledger, 2)
    named = [row.id for row in await letters(service, ids)]
    file = tmp_path / "letters.ndjson"
    refused = await dlq(service, "export", *named, "--output", str(file))
    assert (refused.returncode, file.exists()) == (1, False)
    done = await dlq(service, "export", *named, "--output", str(file), "--reason", "ticket 8", "--by", "Ada")
    assert done.returncode == 0, done.stderr
    assert file.stat().st_mode & 0o077 == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(named)
    records = {
        f"{record.partition}-{record.offset}": record for record in await service.records("notification.dlq", count=2)
    }
    for line in lines:
        record = records[line["id"]]
        assert base64.b64decode(line["value_base64"]) == record.value
        assert base64.b64decode(line["key_base64"]) == record.key
        headers = [(header["name"], base64.b64decode(header["value_base64"])) for header in line["headers"]]
        assert headers == list(record.headers)
    [entry] = await service.fetch("SELECT * FROM audit_log WHERE action = 'dead_letters_exported'")
    assert (entry.who, entry.reason, entry.details) == ("Ada", "ticket 8", {"wanted": {"ids": named}})
    piped = await dlq(service, "export", *named, "--reason", "ticket 8")
    assert piped.stdout == file.read_text()


async def at_a_terminal(service: Service, *arguments: str, answers: Sequence[tuple[str, str]]) -> tuple[int, str]:
    """Runs a command as a person does, who answers its questions; its exit code and all that was shown."""
    ours, theirs = os.openpty()
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "cli.main", "dlq", *arguments],
        env={**environment(service), "COLUMNS": "200", "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    shown, left = "", list(answers)
    try:
        while True:
            try:
                chunk = await asyncio.wait_for(asyncio.to_thread(os.read, ours, 4096), 60)
            except OSError:  # the terminal's other end is closed
                break
            shown += chunk.decode()
            if left and left[0][0] in shown:
                os.write(ours, f"{left.pop(0)[1]}\n".encode())
    finally:
        os.close(ours)
    return await asyncio.to_thread(running.wait, 30), shown


async def test_a_person_is_asked_why_and_whether(service: Service, ledger: Ledger) -> None:
    [one] = await failed(service, ledger, 1)
    command = ("replay", "--notification", str(one))
    why = ("why are they replayed?", "it is back")
    code, shown = await at_a_terminal(service, *command, answers=[why, ("replay 1 dead letters", "n")])
    assert (code, "nothing was replayed" in shown) == (1, True)
    assert await service.status(one) == "failed"

    code, shown = await at_a_terminal(service, *command, answers=[why, ("replay 1 dead letters", "y")])
    assert code == 0, shown
    assert "replayed 1 of 1" in shown
    await service.until(one, "sent")
    [row] = await service.fetch("SELECT reason FROM dead_letter_replays ORDER BY created_at DESC LIMIT 1")
    assert row.reason == "it is back"
