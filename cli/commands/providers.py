"""`comms providers`: how the providers are, and whether one can be used."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import CommandError
from cli.render import Output

if TYPE_CHECKING:
    from cli.provider_check import Finding
    from cli.providers import Look
    from models.settings import Settings

_EVERY_SECONDS = 2.0

app = typer.Typer(add_completion=False, no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def providers() -> None:
    """Show how the providers are, and send one test message by one of them."""


@app.command("list")
def list_providers(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Stay and show it every 2 seconds; Ctrl-C ends.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; with --watch one line for each look.")] = False,
) -> None:
    """Show each channel's chain of providers, as the workers see it.

    The worst state that any worker sees is shown, and how many see it. States: closed (all is well), degraded (most
    calls fail), throttled (it asked to wait), unreachable, broken (it refuses the account), unknown (no worker says).
    """
    from cli.providers import look
    from models.settings import load_settings

    settings = load_settings()
    with contextlib.suppress(KeyboardInterrupt), _screen(watch and not json) as show:
        while True:
            found = asyncio.run(look(settings))
            if json:
                Output().json(found.document(), line=watch)
            else:
                show(found)
            if not watch:
                return
            time.sleep(_EVERY_SECONDS)


@app.command("check")
def check(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A provider, as in EMAIL_PROVIDERS.")],
    *,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="ADDRESS", help="An address, a phone number, a device token. Mail: EMAIL_FROM."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send one real test message by one provider, and say what is wrong where that fails.

    It goes straight to the vendor with the settings of this environment: no queue, no limit, no fail-over, nothing
    stored. The exit code is 1 when the provider didn't take it.
    """
    from models.settings import load_settings
    from streams.logs import configure_logs

    configure_logs("ERROR", process="comms-cli")  # what an adapter would log is in the finding
    finding = asyncio.run(_check(name, load_settings(), to))
    output = Output()
    if json:
        output.json(_document(finding))
    else:
        _show_finding(finding, output)
    if not finding.is_well:
        raise typer.Exit(1)


async def _check(name: str, settings: Settings, to: str | None) -> Finding:
    from cli.provider_check import check as send_one
    from cli.provider_check import misconfigured
    from models.errors import Refused
    from streams.providers.registry import build_provider, channel_of, provider_names

    try:
        channel = channel_of(name)
    except KeyError:
        raise CommandError(f"there is no provider {name!r} (there are: {', '.join(provider_names())})") from None
    try:
        provider = build_provider(name, settings, inbox=_Nobody(), announcer=_Nobody())
    except Refused as error:
        return misconfigured(name, channel, settings, error)
    return await send_one(provider, settings, to=to)


class _Nobody:
    """In place of the inbox, which only in_app needs, and that is not checked here."""

    async def add(self, delivery: object) -> bool:
        """Nowhere."""
        return False

    async def announce(self, user_id: str, message: Mapping[str, Any]) -> None:
        """To nobody."""


def _document(finding: Finding) -> dict[str, Any]:
    shown = {key: value for key, value in asdict(finding).items() if value is not None}
    return {"ok": finding.is_well, **shown}


def _show_finding(finding: Finding, output: Output) -> None:
    settings = ", ".join(f"{name}={value}" for name, value in finding.asked.items())
    output.facts(
        {
            "provider": f"{finding.provider} ({finding.channel})",
            "settings": settings,
            "to": finding.to,
            "outcome": finding.outcome,
            "reason": finding.reason,
            "message id": finding.provider_message_id,
            "retry after": finding.retry_after_seconds and f"{finding.retry_after_seconds:g} s",
            "took": None if finding.seconds is None else f"{finding.seconds:.3f} s",
            "status": finding.status,
        }
    )
    if finding.is_well:
        output.line("The provider took the message. Did it arrive?", style="green")
    else:
        output.line(f"What is wrong: {finding.wrong}", style="red")
        output.line(f"What to do: {finding.todo}")


@contextlib.contextmanager
def _screen(watch: bool) -> Iterator[Callable[[Look], None]]:
    """Prints a look below the one before, or, for a watching person, in its place."""
    output = Output()
    if not watch or not output.is_terminal:
        yield lambda found: _show(found, output)
        return
    with output.screen() as fresh:
        yield lambda found: fresh(lambda: _show(found, output))


def _show(found: Look, output: Output) -> None:
    output.table(
        ("channel", "provider", "state", "detail", "since", "again at", "weight", "share", "workers"),
        [_row(item) for item in found.items()],
        right=("weight", "share", "workers"),
    )
    for note in found.notes:
        output.line(note, style="yellow")


def _row(item: Mapping[str, Any]) -> tuple[object, ...]:
    weight, share = item.get("weight"), item.get("share")
    seen, workers = item["workers_in_state"], item["workers"]
    return (
        item["channel"],
        item["provider"],
        item["state"],
        item.get("detail"),
        item.get("since"),
        item.get("until"),
        None if weight is None else f"{weight:g}",
        None if share is None else f"{share:.0%}",
        workers if seen == workers else f"{seen} of {workers}",
    )
