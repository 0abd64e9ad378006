"""`comms dlq`: the dead letters, as an index and one by one."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import CommandError
from cli.render import Output
from models.enums import Channel, Stage

if TYPE_CHECKING:
    from models.repositories.dead_letter_search import Wanted
    from models.repositories.dead_letters import DeadLetter

app = typer.Typer(
    help="Look at dead letters: records that failed for good.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_AGO = re.compile(r"^(\d{1,6})([smhd])$", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command("list")
def list_(
    *,
    stage: Annotated[Stage | None, typer.Option(help="Where in the flow they failed.")] = None,
    error_class: Annotated[str | None, typer.Option(help="What kind of failure.")] = None,
    channel: Annotated[Channel | None, typer.Option(help="Deliveries on this channel.")] = None,
    topic: Annotated[str | None, typer.Option(help="The topic they came from.")] = None,
    since: Annotated[str | None, typer.Option(help="2h, 7d, or a time as 2026-01-01T12:00:00Z.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    json: Json = False,
) -> None:
    """List dead letters, newest first."""
    from models.repositories.dead_letter_search import Wanted

    wanted = Wanted(
        stage=stage,
        error_class=error_class,
        channel=channel,
        topic=topic,
        since=moment(since, now=datetime.now(UTC)) if since else None,
    )
    found = asyncio.run(_find(wanted, limit))
    output = Output()
    if json:
        output.json([_as_document(letter) for letter in found])
    elif found:
        _show_list(found, output)
    else:
        output.line("no dead letters")


@app.command()
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `comms dlq list` shows it.")],
    *,
    content: Annotated[bool, typer.Option("--content", help="Show the content too. This is logged.")] = False,
    json: Json = False,
) -> None:
    """Show one dead letter: why and where it failed. Its content stays hidden without --content."""
    from cli.dead_letters import Place, described, read
    from models.settings import load_settings

    place = Place.of(identifier)
    record = asyncio.run(read(load_settings(), place))
    if content:
        _log_the_look(str(place))
    document = described(record, content=content)
    if json:
        Output().json(document)
    else:
        _show_one(document, Output())


def moment(text: str, *, now: datetime) -> datetime:
    """The time that `--since` means: so long ago, or that very time.

    Raises:
        CommandError: when it is neither.
    """
    ago = _AGO.match(text)
    try:
        if ago:
            return now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        found = datetime.fromisoformat(text)
        if found.tzinfo is None:
            raise ValueError
    except (ValueError, OverflowError):
        raise CommandError("--since must be as 30m, 2h, 7d, or a time with an offset as 2026-01-01T12:00:00Z") from None
    return found


async def _find(wanted: Wanted, limit: int) -> list[DeadLetter]:
    from cli.servers import database
    from models.repositories.dead_letter_search import find
    from models.settings import load_settings

    async with database(load_settings()) as connection:
        return await find(connection, wanted, limit=limit)


def _as_document(letter: DeadLetter) -> dict[str, Any]:
    from dataclasses import asdict

    from models.ids import rfc3339

    return {**asdict(letter), "failed_at": rfc3339(letter.failed_at)}


def _show_list(letters: list[DeadLetter], output: Output) -> None:
    from models.ids import rfc3339

    output.table(
        ("id", "failed at", "stage", "channel", "error", "reason", "source", "notification"),
        [
            (
                letter.id,
                rfc3339(letter.failed_at),
                letter.stage,
                letter.channel,
                letter.error_class,
                letter.error_reason,
                f"{letter.source_topic}/{letter.source_partition}/{letter.source_offset}",
                letter.notification_id,
            )
            for letter in letters
        ],
    )


def _show_one(document: dict[str, Any], output: Output) -> None:
    source = document["source"]
    shown = ("id", "failed_at", "stage", "error_class", "error_reason", "attempts", "notification_id", "channel")
    output.facts(
        {
            **{name.replace("_", " "): document[name] for name in shown},
            "source": f"{source['topic']}, partition {source['partition']}, offset {source['offset']}",
            "key": document["key"],
            "value": _value(document["value"]),
        }
    )
    output.line()
    output.table(("header", "value"), [(header["name"], header["value"]) for header in document["headers"]])
    if "content" in document:
        ((form, text),) = document["content"].items()
        output.line()
        output.facts({f"content ({form})": text})


def _value(fingerprint: dict[str, Any] | None) -> str:
    if fingerprint is None:
        return "null"
    return f"{fingerprint['bytes']} bytes, sha256 {fingerprint['sha256']}"


def _log_the_look(identifier: str) -> None:
    """Content is shown only by an act that is written down."""
    import structlog

    log = structlog.wrap_logger(
        structlog.WriteLogger(sys.stderr),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ],
    )
    log.warning("dead_letter_content_shown", dead_letter_id=identifier, who=_who())
    print("note: the content of a dead letter is personal data; that you looked at it is logged", file=sys.stderr)


def _who() -> str:
    import getpass
    import os

    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user has no name.
        return f"uid {os.getuid()}"
