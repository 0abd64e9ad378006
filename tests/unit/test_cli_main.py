"""The command line as a whole: which servers a command finds, and that it answers fast."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cli.embedded.home import Home
from cli.main import COMMANDS, running_stack

ROOT = Path(__file__).parents[2]
OURS = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "DATABASE_URL": "postgresql://ours", "PORT": "8002"}


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({}, OURS),
        ({"PORT": "9000"}, OURS.keys() - {"PORT"}),
        ({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}, OURS.keys() - {"KAFKA_BOOTSTRAP_SERVERS"}),
        ({"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}, {}),
        ({"REDIS_URL": "redis://elsewhere"}, {}),
    ],
)
def test_a_command_finds_the_running_stack_or_keeps_away(
    tmp_path: Path, environment: dict[str, str], found: set[str]
) -> None:
    home = Home.open(tmp_path)
    home.write_env(OURS)
    assert running_stack(environment, home) == {name: OURS[name] for name in found}


def test_commands_import_nothing_heavy_before_they_run() -> None:
    """`comms --help` imports them all: half a second would be felt."""
    heavy = ("httpx", "aiokafka", "sqlalchemy", "pydantic", "faust", "fastapi", "rich", "structlog", "alembic")
    script = (
        "import importlib, sys\n"
        f"for name in {[name for name in COMMANDS if name != 'up']}: importlib.import_module('cli.commands.' + name)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script],
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
