"""`comms worker`: the lanes."""

from __future__ import annotations

import asyncio
from typing import Annotated

import typer

#: For the help; the names themselves are `streams.app.part_names()`.
LANES = (
    "requests-{high,normal,low}",
    "send-{email,sms,push,in_app}-{high,normal,low}",
    "contacts",
    "provider-events",
    "delay-{1s,5s,30s,2m,10m,1h}",
    "outbox",
    "schedules",
    "provider-events-unmatched",
    "queue-metrics",
    "replays",
    "bounce-guard",
)


def worker(
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="LANE",
            help="Run only this lane, or those that a pattern fits ('send-email-*'). May be given more than once. "
            f"There are: {', '.join(LANES)}.",
        ),
    ] = None,
) -> None:
    """Run the lanes, until SIGTERM: then finish what was begun, and end within 20 seconds.

    As many processes as you like share the lanes, up to KAFKA_PARTITIONS for each; every lane must run somewhere
    (`comms queues` names those that nobody reads). Ends with 1 when a lane met something unforeseen: a supervisor is to
    start it again.
    """
    import uvloop
    from prometheus_client import start_http_server

    from cli import CommandError
    from cli.heap import calm_collector, few_arenas
    from models.settings import load_settings
    from streams.logs import configure_logs
    from streams.worker import run

    few_arenas()
    settings = load_settings()
    configure_logs(settings.log_level, process="worker")
    try:
        start_http_server(settings.metrics_port)
    except OSError:
        raise CommandError(f"METRICS_PORT {settings.metrics_port} is taken") from None
    calm_collector()
    uvloop.install()  # a policy, because the lanes' consumers make loops of their own in threads
    asyncio.run(run(settings, only or []))
