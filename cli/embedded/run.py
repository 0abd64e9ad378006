"""One run of `comms up`: everything on this machine, kept running until a signal ends it."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections.abc import Coroutine, Iterable, Mapping
from datetime import timedelta
from typing import Any

from cli.embedded import application
from cli.embedded.display import Display
from cli.embedded.home import Home
from cli.embedded.identity import sign, signing_key
from cli.embedded.parts import Part
from cli.embedded.ports import LOOPBACK, Ports
from cli.embedded.processes import stop_leftovers
from cli.embedded.stack import SERVERS, Server, start_server
from cli.embedded.supervisor import Supervisor

_TOKEN_ROLES = ("admin", "service")


def run(home: Home, *, demo: bool) -> None:
    """Starts all, and returns when a signal has ended it.

    Raises CommandError when something can't be started.
    """
    with home.lock():
        display = Display(home.log_file("up"))
        for name in stop_leftovers(home):
            display.say(f"{name} was still running from before: stopped")
        port = application.check_port(os.environ)
        workers = application.number_setting(os.environ, "WORKERS", 1, low=1, high=64)
        asyncio.run(_Stack(home, display, port=port, workers=workers, demo=demo).run())


class _Stack:
    """One run of `comms up`."""

    def __init__(self, home: Home, display: Display, *, port: int, workers: int, demo: bool) -> None:
        self._home = home
        self._display = display
        self._port = port
        self._workers = workers
        self._demo = demo
        self._ports = Ports(home.data / "ports.json")
        self._supervisor = Supervisor(home, display.say)
        self._application: list[str] = []
        self._cancelled = threading.Event()

    async def run(self) -> None:
        """Starts all, waits for a signal, stops all. Raises CommandError when something can't be started."""
        life = asyncio.create_task(self._live())
        self._on_signal(life)
        try:
            await life
        except asyncio.CancelledError:
            pass
        finally:
            self._cancelled.set()
            await self._stop()

    def _on_signal(self, life: asyncio.Task[None]) -> None:
        """The first signal ends the run in good order, another one at once."""

        def stop() -> None:
            if life.done():
                self._supervisor.kill()
                return
            self._display.say("stopping")
            life.cancel()

        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, stop)

    async def _live(self) -> None:
        with self._display.live():
            settings = application.own_settings(self._home, os.environ, self._port)
            settings |= await self._start_servers()
            await self._migrate(settings)
            parts = self._application_parts(settings)
            self._home.write_env({**settings, **self._metrics_urls(parts)})
            await _all(self._start(part) for part in parts)
        self._show(settings)
        if self._demo:
            await _run_demo(settings, self._display)
        await asyncio.Event().wait()

    async def _start_servers(self) -> dict[str, str]:
        """Starts what the environment does not name; returns the settings of all servers."""
        wanted = [server for server in SERVERS if server.is_wanted(os.environ)]
        given = {name: os.environ[name] for server in SERVERS for name in server.unless if name in os.environ}
        started = await _all(self._start_server(server) for server in wanted)
        return given | {name: value for gives in started for name, value in gives.items()}

    async def _start_server(self, server: Server) -> Mapping[str, str]:
        self._display.begin(server.name)
        gives = await start_server(
            server,
            self._supervisor,
            self._home,
            self._ports,
            progress=lambda doing: self._display.update(server.name, doing),
            cancelled=self._cancelled,
        )
        self._display.done(server.name)
        return gives

    async def _migrate(self, settings: Mapping[str, str]) -> None:
        self._display.begin("migrate", "tables and topics")
        await application.migrate(self._home, settings)
        self._display.done("migrate", "done")

    def _application_parts(self, settings: Mapping[str, str]) -> list[Part]:
        workers = [
            application.worker_part(number, settings, self._metrics_port(f"worker-{number}"))
            for number in range(1, self._workers + 1)
        ]
        parts = [*workers, application.api_part(settings, self._metrics_port("api"))]
        self._application = [part.name for part in parts]
        return parts

    def _metrics_port(self, name: str) -> int:
        return self._ports.take(f"metrics-{name}")

    def _metrics_urls(self, parts: list[Part]) -> dict[str, str]:
        return {
            f"METRICS_URL_{part.name.upper().replace('-', '_')}": (
                f"http://{LOOPBACK}:{self._metrics_port(part.name)}/metrics"
            )
            for part in parts
        }

    async def _start(self, part: Part) -> None:
        self._display.begin(part.name)
        await self._supervisor.start(part)
        self._display.done(part.name)

    def _show(self, settings: Mapping[str, str]) -> None:
        url = settings["PUBLIC_URL"]
        rows = [("API", url), ("its documentation", f"{url}/docs")]
        if "KAFKA_BOOTSTRAP_SERVERS" in settings:
            rows.append(("Kafka", settings["KAFKA_BOOTSTRAP_SERVERS"]))
        if "SMTP_PORT" in settings:
            rows.append(("caught mail", str(self._home.mail)))
        rows.append(("all settings", str(self._home.env_file)))
        if not os.environ.get("IDENTITY_SERVICE_URL"):
            token = sign(signing_key(self._home), user_id="local", roles=_TOKEN_ROLES, ttl=timedelta(days=1))
            rows.append((f"a token ({', '.join(_TOKEN_ROLES)})", token))
        self._display.lines(rows)

    async def _stop(self) -> None:
        """What works on the servers goes before them."""
        await self._supervisor.stop(self._application)
        await self._supervisor.stop_all()


async def _all(work: Iterable[Coroutine[Any, Any, Any]]) -> list[Any]:
    """Does all at once; the first failure ends the others and is raised."""
    tasks = [asyncio.ensure_future(item) for item in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _run_demo(settings: Mapping[str, str], display: Display) -> None:
    """Runs the demo in a thread that nobody waits for at exit. Its failure is told, and ends nothing."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def work() -> None:
        try:
            from cli.commands.demo import run_demo

            run_demo({**os.environ, **settings})
        except Exception as error:
            loop.call_soon_threadsafe(display.say, f"the demo failed: {error}")
        finally:
            loop.call_soon_threadsafe(over.set)

    threading.Thread(target=work, name="demo", daemon=True).start()
    await over.wait()
