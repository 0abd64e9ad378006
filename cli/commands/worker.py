"""`comms worker`: the lanes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer


def worker(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Run only these lanes; patterns such as 'send-email-*' work. May be given more than once."),
    ] = None,
) -> None:
    """Run the lanes, until SIGTERM."""
    import uvloop
    from prometheus_client import start_http_server

    from cli import CommandError
    from cli.collector import calm_collector
    from models.settings import load_settings
    from streams.logs import configure_logs
    from streams.worker import run

    settings = load_settings()
    configure_logs(settings.log_level, process="worker")
    try:
        start_http_server(settings.metrics_port)
    except OSError:
        raise CommandError(f"METRICS_PORT {settings.metrics_port} is taken") from None
    calm_collector()
    uvloop.install()  # a policy, because the lanes' consumers make loops of their own in threads
    asyncio.run(run(settings, only or []))
