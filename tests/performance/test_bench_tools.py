"""The benchmarks' own tools: what they would say of figures, and what they would send."""

from __future__ import annotations

import inspect
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from bench import adapters
from bench.catalogue import CATALOGUE, GROUPS, Bench
from bench.http_load import Load, _template
from bench.targets import Target, line
from models.requests import NotificationRequest, parse

ROOT = Path(__file__).parents[2]
RATE = Target("per_second", at_least=1_100)
RATIO = Target("ratio", at_least=0.4, aim=0.6)
WAIT = Target("p99_ms", at_most=200)


@pytest.mark.parametrize(
    ("figures", "is_ok"),
    [
        ({"per_second": 1_100, "ratio": 0.4, "p99_ms": 200.0}, True),
        ({"per_second": 1_099, "ratio": 0.4, "p99_ms": 200.0}, False),
        ({"per_second": 1_100, "ratio": 0.39, "p99_ms": 200.0}, False),
        ({"per_second": 1_100, "ratio": 0.4, "p99_ms": 200.1}, False),
        ({"per_second": 1_100, "ratio": 0.4}, False),
    ],
)
def test_a_line_says_whether_its_targets_are_met(figures: dict[str, Any], is_ok: bool) -> None:
    told = line("throughput", figures, RATE, RATIO, WAIT)
    assert told["ok"] is is_ok
    assert told["targets"] == {"per_second": ">= 1100", "ratio": ">= 0.4 (aim 0.6)", "p99_ms": "<= 200"}
    assert orjson.loads(orjson.dumps(told))["bench"] == "throughput"


@pytest.mark.parametrize("one", CATALOGUE.values(), ids=CATALOGUE)
def test_a_benchmark_takes_what_a_short_run_gives_it(one: Bench) -> None:
    inspect.signature(one.run).bind(**{**one.given, **one.quick})
    assert one.about


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *arguments]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_the_list_names_all() -> None:
    told = bench("--list")
    assert (told.returncode, told.stdout.split()) == (0, list(CATALOGUE))


def test_an_unknown_name_is_refused() -> None:
    told = bench("fast")
    assert (told.returncode, told.stdout) == (2, "")
    assert "no such benchmark: fast" in told.stderr


def test_the_load_is_valid_http_and_never_the_same() -> None:
    load = Load(_template(port=8002, token="a.b.c"))
    keys, users = set(), set()
    for _ in range(3):
        head, _, body = load.next_request().partition(b"\r\n\r\n")
        headers = dict(each.split(b": ", 1) for each in head.split(b"\r\n")[1:])
        assert int(headers[b"Content-Length"]) == len(body)
        request = parse(NotificationRequest, body)
        assert request.recipient.email == f"{request.user_id}@example.com"
        keys.add(headers[b"Idempotency-Key"])
        users.add(request.user_id)
    assert (len(keys), len(users)) == (3, 3)


def test_a_group_stands_for_its_members() -> None:
    assert set(GROUPS["adapters"]) == {name for name in CATALOGUE if name.startswith("adapter-")}


@pytest.mark.parametrize("name", adapters.NAMES)
async def test_each_adapter_can_be_measured(name: str) -> None:
    if name == "apns" and shutil.which("node") is None:
        pytest.skip("NODE IS MISSING: the benchmark of APNs is not tried")
    told = await adapters.adapter(name, 0.1)
    assert told["bench"] == f"adapter-{name}"
    assert told["per_second"] > 0
    assert told["targets"] == ({} if name == "smtp" else {"ratio": ">= 0.6"})
    # A vendor that can't keep up would make every adapter look good.
    assert name == "smtp" or told["sink_busy"] < 0.8
