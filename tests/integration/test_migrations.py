"""Migrations build what the models say, and can be taken back."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import asyncpg
import pytest

from models.base import Table
from tests.fixtures.stack import Databases

Alembic = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def url(postgres: Databases, migrated: str) -> Iterator[str]:
    url = postgres("migrations", template=migrated)
    yield url
    postgres.drop(url)


@pytest.fixture
def alembic(url: str) -> Alembic:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "alembic", *words]
        environment = {**os.environ, "DATABASE_URL": url}
        return subprocess.run(command, check=False, env=environment, capture_output=True, text=True)

    return run


def test_the_models_ask_for_nothing_that_no_migration_makes(alembic: Alembic) -> None:
    found = alembic("check")
    assert found.returncode == 0, found.stdout + found.stderr


async def test_tables_have_the_room_that_the_models_ask_for(url: str) -> None:
    """`alembic check` does not look at storage parameters."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch("SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL")
    finally:
        await connection.close()
    built = {row["relname"]: set(row["reloptions"]) for row in rows}
    for table in Table.metadata.sorted_tables:
        options = table.dialect_options["postgresql"]["with"] or {}
        wanted = {f"{name}={value}" for name, value in options.items()}
        assert wanted <= built.get(table.name, set()), table.name


def test_all_can_be_taken_back_and_made_again(alembic: Alembic) -> None:
    for words in (("downgrade", "base"), ("upgrade", "head")):
        done = alembic(*words)
        assert done.returncode == 0, done.stderr
