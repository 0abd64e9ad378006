"""`comms migrate`: the database's tables and Kafka's topics."""

from __future__ import annotations

from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]


def migrate() -> None:
    """Bring the database's tables and Kafka's topics up to date. Safe to run again."""
    import asyncio

    from alembic.config import Config

    from alembic import command
    from models.settings import load_settings
    from streams.bootstrap import create_topics, reach

    settings = load_settings()
    config = Config(str(_ROOT / "alembic.ini"))
    config.set_main_option("script_location", str(_ROOT / "alembic").replace("%", "%%"))
    asyncio.run(reach(settings))
    command.upgrade(config, "head")
    print("Database: up to date.")
    created = asyncio.run(create_topics(settings))
    print(f"Kafka: {len(created.new)} topics created, {len(created.grown)} grown.")
