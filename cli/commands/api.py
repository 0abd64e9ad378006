"""`comms api`: the HTTP API."""

from __future__ import annotations

import contextlib


def api() -> None:
    """Run the HTTP API on HOST and PORT, its metrics on METRICS_PORT, until SIGTERM."""
    from prometheus_client import start_http_server

    from api.app import create_app
    from api.server import listen, server
    from cli.heap import calm_collector, few_arenas
    from models.errors import Refused
    from models.settings import load_settings
    from streams.logs import configure_logs

    few_arenas()
    settings = load_settings()
    configure_logs(settings.log_level, process="api")
    socket = listen(settings.host, settings.port)
    try:
        start_http_server(settings.metrics_port)
    except OSError:
        raise Refused("METRICS_PORT", f"{settings.metrics_port} is taken") from None
    app = create_app(settings)
    calm_collector()
    with contextlib.suppress(KeyboardInterrupt):
        server(app, settings).run(sockets=[socket])
