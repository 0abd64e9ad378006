"""`comms dlq`: the dead letters, as an index and one by one, and their way back."""

from __future__ import annotations

import asyncio
import re
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli import CommandError
from cli.render import Output
from models.enums import Channel, Stage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from models.repositories.dead_letter_search import StoredLetter, Wanted
    from models.repositories.replays import StoredReplay

app = typer.Typer(
    help="Dead letters, records that failed for good: look at them, send them back.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

_AGO = re.compile(r"^(\d{1,6})([smhd])$", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Ids = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="As `comms dlq list` shows them.")]
StageOption = Annotated[Stage | None, typer.Option("--stage", help="Where in the flow they failed.")]
ClassOption = Annotated[str | None, typer.Option("--error-class", help="What kind of failure.")]
ChannelOption = Annotated[Channel | None, typer.Option("--channel", help="Deliveries on this channel.")]
TopicOption = Annotated[str | None, typer.Option("--topic", help="The topic they came from.")]
NotificationOption = Annotated[UUID | None, typer.Option("--notification", help="About this notification.")]
SinceOption = Annotated[
    str | None, typer.Option("--since", help="Not older: 2h, 7d, or a time as 2026-01-01T12:00:00Z.")
]
UntilOption = Annotated[str | None, typer.Option("--until", help="Older than this, written the same way.")]
All = Annotated[bool, typer.Option("--all", help="All there are, where nothing else says which.")]
Because = Annotated[str | None, typer.Option("--reason", help="Why; goes into the audit log.")]
By = Annotated[str | None, typer.Option("--by", help="Who, for the audit log. [default: the system's user]")]


@app.command("list")
def list_(
    *,
    stage: StageOption = None,
    error_class: ClassOption = None,
    channel: ChannelOption = None,
    topic: TopicOption = None,
    notification: NotificationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, newest first.")] = 50,
    after: Annotated[str | None, typer.Option(metavar="ID", help="Go on behind this one, the last of a page.")] = None,
    json: Json = False,
) -> None:
    """List dead letters, newest first."""
    wanted = _wanted(None, stage, error_class, channel, topic, notification, since, until)
    found = asyncio.run(_find(wanted, limit + 1, after))
    output, shown = Output(), found[:limit]
    if json:
        output.json([_as_document(letter) for letter in shown])
    elif shown:
        _show_list(shown, output)
    else:
        output.line("no dead letters")
    if len(found) > limit:
        print(f"more: --after {shown[-1].id}", file=sys.stderr)


@app.command()
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="As `comms dlq list` shows it.")],
    *,
    content: Annotated[bool, typer.Option("--content", help="Show the content too. This is audited.")] = False,
    reason: Because = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Show one dead letter: why and where it failed, and what a replay would do.

    Its content stays hidden without --content.
    """
    from cli.dead_letters import shown
    from models.settings import load_settings
    from streams.letters import Place

    place = Place.of(identifier)
    because = (
        _reason(reason, "the content of a dead letter is personal data; why do you look at it?") if content else None
    )
    document = asyncio.run(shown(load_settings(), place, who=_who(by), because=because))
    if json:
        Output().json(document)
    else:
        _show_one(document, Output())
    if content:
        print("note: that you looked at the content is in the audit log", file=sys.stderr)


@app.command()
def replay(
    ids: Ids = None,
    *,
    stage: StageOption = None,
    error_class: ClassOption = None,
    channel: ChannelOption = None,
    topic: TopicOption = None,
    notification: NotificationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    everything: All = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask; --reason is needed then.")] = False,
    reason: Because = None,
    rate: Annotated[int, typer.Option(min=1, max=10_000, help="Letters a second at most.")] = 500,
    force: Annotated[bool, typer.Option("--force", help="Also what was replayed too often before.")] = False,
    by: By = None,
    json: Json = False,
) -> None:
    """Send dead letters back to where they failed: counts first, asks, then acts.

    A letter is replayed once, however often this is called; what fails again is a letter of its own.
    """
    from cli import replays
    from models.settings import load_settings

    wanted = _wanted(ids, stage, error_class, channel, topic, notification, since, until)
    _check_choice(wanted, everything=everything)
    if yes and not dry_run and not reason:
        raise CommandError("--yes needs a --reason: it goes into the audit log")
    settings, output = load_settings(), Output()
    found = asyncio.run(replays.counted(settings, wanted))
    left = found.to_replay(force=force)
    if not json:
        replays.show_counts(found, output, force=force)
    if dry_run or left == 0:
        if json:
            output.json(replays.as_document(found, force=force))
        return
    because = _reason(reason, "why are they replayed?")
    if not yes:
        _confirm(f"replay {left} dead letters, at most {rate} a second?")
    order = replays.Order(wanted=wanted, who=_who(by), reason=because, rate=rate, force=force, matched=found.matched)
    _show_end(asyncio.run(replays.replay(settings, order)), output, json=json)


@app.command()
def export(
    ids: Ids = None,
    *,
    stage: StageOption = None,
    error_class: ClassOption = None,
    channel: ChannelOption = None,
    topic: TopicOption = None,
    notification: NotificationOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    everything: All = False,
    file: Annotated[str, typer.Option("--output", "-o", help="The file to write; - is standard output.")] = "-",
    reason: Because = None,
    by: By = None,
    json: Json = False,
) -> None:
    """Write dead letters with all their content, one JSON document a line; keys, values and headers are in base64.

    This is audited. With --json the count is printed as JSON, where the letters go to a file.
    """
    from cli.dead_letters import export as write
    from cli.dead_letters import written
    from models.settings import load_settings

    wanted = _wanted(ids, stage, error_class, channel, topic, notification, since, until)
    _check_choice(wanted, everything=everything)
    because = _reason(reason, "dead letters hold personal data; why are they exported?")
    with written(file) as opened:
        count = asyncio.run(write(load_settings(), wanted, opened, who=_who(by), reason=because))
    if json and file != "-":
        Output().json({"letters": count, "file": file})
    else:
        print(f"{count} dead letters exported; this is in the audit log", file=sys.stderr)


def moment(text: str, *, now: datetime, option: str = "--since") -> datetime:
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
        raise CommandError(
            f"{option} must be as 30m, 2h, 7d, or a time with an offset as 2026-01-01T12:00:00Z"
        ) from None
    return found


def _wanted(
    ids: Sequence[str] | None,
    stage: Stage | None,
    error_class: str | None,
    channel: Channel | None,
    topic: str | None,
    notification: UUID | None,
    since: str | None,
    until: str | None,
) -> Wanted:
    from models.repositories.dead_letter_search import Wanted
    from streams.letters import Place

    now = datetime.now(UTC)
    return Wanted(
        ids=tuple(str(Place.of(one)) for one in ids) if ids else None,
        stage=stage,
        error_class=error_class,
        channel=channel,
        topic=topic,
        notification_id=notification,
        since=moment(since, now=now) if since else None,
        until=moment(until, now=now, option="--until") if until else None,
    )


def _check_choice(wanted: Wanted, *, everything: bool) -> None:
    """No slip of the finger means all of them."""
    if wanted.is_everything and not everything:
        raise CommandError("which ones? Name ids, give a filter, or say --all")
    if wanted.ids is not None and len(wanted.given()) > 1:
        raise CommandError("give ids or filters, not both")


def _reason(given: str | None, question: str) -> str:
    """The reason that was given, else the answer of whoever sits there."""
    if given and given.strip():
        return given.strip()
    if given is not None or not sys.stdin.isatty():
        raise CommandError("--reason is needed: it goes into the audit log")
    return str(typer.prompt(question, err=True)).strip()


def _confirm(question: str) -> None:
    if not sys.stdin.isatty():
        raise CommandError("nobody is there to be asked; say --yes")
    if not typer.confirm(question, err=True):
        raise CommandError("nothing was replayed")


async def _find(wanted: Wanted, limit: int, before: str | None) -> list[StoredLetter]:
    from cli.servers import database
    from models.repositories.dead_letter_search import find
    from models.settings import load_settings

    async with database(load_settings()) as connection:
        return await find(connection, wanted, limit=limit, before=before)


def _as_document(letter: StoredLetter) -> dict[str, Any]:
    from dataclasses import asdict

    from models.ids import rfc3339

    times = {"failed_at": rfc3339(letter.failed_at), "replayed_at": letter.replayed_at and rfc3339(letter.replayed_at)}
    return {**asdict(letter), **times}


def _show_list(letters: list[StoredLetter], output: Output) -> None:
    from models.ids import rfc3339

    output.table(
        ("id", "failed at", "stage", "channel", "error", "reason", "source", "notification", "then"),
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
                "replayed" if letter.replayed_at else letter.unreplayable,
            )
            for letter in letters
        ],
    )


def _show_one(document: dict[str, Any], output: Output) -> None:
    source = document["source"]
    shown = (
        "id",
        "failed_at",
        "stage",
        "error_class",
        "error_reason",
        "attempts",
        "generation",
        "notification_id",
        "channel",
        "replayed_at",
    )
    output.facts(
        {
            **{name.replace("_", " "): document.get(name) for name in shown},
            "source": f"{source['topic']}, partition {source['partition']}, offset {source['offset']}",
            "key": document.get("key"),
            "value": _value(document.get("value")) if document["is_kept"] else "past retention: only the index is left",
            "replay": document["replay"]["told"],
        }
    )
    if "headers" in document:
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


def _show_end(done: StoredReplay, output: Output, *, json: bool) -> None:
    from cli.replays import show_skipped

    if json:
        output.json(
            {
                "replay_id": str(done.id),
                "state": done.state,
                "matched": done.matched,
                "replayed": done.replayed,
                "skipped": dict(done.skipped),
            }
        )
    else:
        output.line()
        output.line(f"replayed {done.replayed} of {done.matched} (replay {done.id})")
        show_skipped(done.skipped, output)
    if done.state == "failed":
        raise CommandError("the replay failed; the line above in the log says of what")


def _who(given: str | None) -> str:
    import getpass
    import os

    if given and given.strip():
        return given.strip()
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # A container's user has no name.
        return f"uid {os.getuid()}"
