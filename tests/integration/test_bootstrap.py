"""What `comms migrate` says of servers that are away or refuse."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest

from models.errors import Unavailable
from streams.bootstrap import create_topics, reach
from streams.topics import CATALOGUE
from tests.fixtures.service import settings_for
from tests.fixtures.stack import Databases

SOON = timedelta(seconds=1)


@pytest.fixture
def nobody() -> str:
    """An address on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_servers_that_answer_are_reached(kafka: str, migrated: str, valkey: str) -> None:
    await reach(settings_for(kafka, migrated, valkey), patience=SOON)


async def test_a_database_that_is_away_is_named(kafka: str, valkey: str, nobody: str) -> None:
    with pytest.raises(Unavailable, match=f"postgres: {nobody}/x does not answer"):
        await reach(settings_for(kafka, f"postgresql://u:secret@{nobody}/x", valkey), patience=SOON)


async def test_a_database_that_is_not_there_is_said_at_once(kafka: str, migrated: str, valkey: str) -> None:
    missing = migrated.rsplit("/", 1)[0] + "/missing"
    with pytest.raises(Unavailable, match="missing does not exist") as refused:
        await reach(settings_for(kafka, missing, valkey), patience=timedelta(minutes=5))
    assert refused.value.is_final


async def test_a_wrong_password_is_said_at_once_and_not_shown(kafka: str, migrated: str, valkey: str) -> None:
    user, rest = migrated.split("://")[1].split(":", 1)
    wrong = f"postgresql://{user}:wrong-one@{rest.split('@', 1)[1]}"
    with pytest.raises(Unavailable, match="refuses this password") as refused:
        await reach(settings_for(kafka, wrong, valkey), patience=timedelta(minutes=5))
    assert "wrong-one" not in str(refused.value)


async def test_a_broker_that_is_away_is_named(migrated: str, valkey: str, nobody: str) -> None:
    with pytest.raises(Unavailable, match="kafka: does not answer"):
        await reach(settings_for(nobody, migrated, valkey), patience=SOON)


async def test_topics_are_made_once_and_grow(kafka: str, postgres: Databases, migrated: str, valkey: str) -> None:
    settings = settings_for(kafka, migrated, valkey)
    assert len((await create_topics(settings)).new) == len(CATALOGUE)
    again = await create_topics(settings)
    assert (again.new, again.grown) == ((), ())
    larger = settings.model_copy(update={"kafka_partitions": 3})
    assert len((await create_topics(larger)).grown) == len(CATALOGUE)
    assert (await create_topics(settings)).grown == ()
