"""`comms send`: hand in one notification."""

from __future__ import annotations

import hashlib
import json as encoding
import os
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import CommandError
from cli.render import Output
from models.enums import Channel, Priority


def send(
    *,
    to: Annotated[str | None, typer.Option(help="An e-mail address, or a phone number as +4915112345678.")] = None,
    user: Annotated[str | None, typer.Option(help="The user it is for; with --to, that address is used.")] = None,
    channel: Annotated[list[Channel] | None, typer.Option(help="May be given more than once.")] = None,
    template: Annotated[str | None, typer.Option(help="The key of a stored template.")] = None,
    subject: Annotated[str | None, typer.Option(help="Inline content: an e-mail's subject.")] = None,
    text: Annotated[str | None, typer.Option(help="Inline content: plain text.")] = None,
    html: Annotated[str | None, typer.Option(help="Inline content: HTML.")] = None,
    title: Annotated[str | None, typer.Option(help="Inline content: title for push and in-app.")] = None,
    body: Annotated[str | None, typer.Option(help="Inline content: body for push and in-app.")] = None,
    data: Annotated[str | None, typer.Option(help="The template's variables, a JSON object.")] = None,
    data_file: Annotated[str | None, typer.Option(help="The same from a file; - is standard input.")] = None,
    category: Annotated[str | None, typer.Option(help="Preferences and default channels hang on it.")] = None,
    priority: Annotated[Priority | None, typer.Option(help="Which lane it takes.")] = None,
    send_at: Annotated[str | None, typer.Option(help="Not before, as in 2026-01-01T12:00:00Z.")] = None,
    expires_at: Annotated[str | None, typer.Option(help="Not after, as in 2026-01-01T12:00:00Z.")] = None,
    idempotency_key: Annotated[str | None, typer.Option(help="A repeat with the same key sends nothing again.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it has ended, showing each step.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Send a notification through the HTTP API; prints its id.

    With --follow the exit code is 0 when it was sent, and 1 when it ended otherwise.
    """
    content = {"subject": subject, "text": text, "html": html, "title": title, "body": body}
    request = build_request(
        to=to,
        user=user,
        channels=channel or [],
        template=template,
        content={name: value for name, value in content.items() if value is not None},
        data=read_data(data, data_file),
        more={
            "category": category,
            "priority": priority and priority.value,
            "send_at": send_at,
            "expires_at": expires_at,
        },
        idempotency_key=idempotency_key or str(uuid.uuid4()),
    )
    _hand_in(request, follow=follow, json=json)


def _hand_in(request: Mapping[str, Any], *, follow: bool, json: bool) -> None:
    from cli.client import ApiAway, connect
    from cli.embedded.home import Home

    output = Output()
    with connect(os.environ, Home.locate()) as api:
        try:
            accepted = api.send(request)
        except ApiAway as error:
            key = request["idempotency_key"]
            raise CommandError(
                f"{error} Whether it was taken is unknown: repeat with --idempotency-key {key}"
            ) from None
        if json:
            output.json(accepted, line=follow)
        else:
            output.line(f"{accepted['notification_id']}  {accepted['status']}")
        if not follow:
            return
        from cli.commands.status import follow_up, went_well

        final = follow_up(api, str(accepted["notification_id"]), output, json=json)
    if not went_well(final):
        raise typer.Exit(1)


def build_request(
    *,
    to: str | None,
    user: str | None,
    channels: list[Channel],
    template: str | None,
    content: Mapping[str, str],
    data: Mapping[str, Any],
    more: Mapping[str, str | None],
    idempotency_key: str,
) -> dict[str, Any]:
    """The request's body (CONTRACT section 5).

    Raises:
        CommandError: when what was given does not make one request.
    """
    if not to and not user:
        raise CommandError("whom is it for? give --to ADDRESS or --user ID")
    if bool(template) == bool(content):
        raise CommandError("give either --template KEY, or content as --subject and --text")
    request: dict[str, Any] = {
        "user_id": user or _user_of(to or ""),
        "idempotency_key": idempotency_key,
        **({"template_id": template} if template else {"content": dict(content)}),
        **{name: value for name, value in more.items() if value is not None},
    }
    if data:
        request["data"] = dict(data)
    if to:
        request["recipient"] = {_address_kind(to): to}
    names = [channel.value for channel in channels] or _channels_for(to)
    if names:
        request["channels"] = names
    return request


def read_data(text: str | None, file: str | None) -> dict[str, Any]:
    """The JSON object of --data or --data-file; empty without either.

    Raises:
        CommandError: when both are given, the file can't be read, or it holds something else.
    """
    if text is not None and file is not None:
        raise CommandError("give --data or --data-file, not both")
    source = "--data" if file is None else "--data-file"
    if file is not None:
        text = _read(file)
    if text is None:
        return {}
    try:
        data = encoding.loads(text)
    except ValueError:
        raise CommandError(f"{source} is not valid JSON") from None
    if not isinstance(data, dict):
        raise CommandError(f'{source} must be a JSON object, as in {{"name": "Ada"}}')
    return data


def _read(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text()
    except UnicodeDecodeError:
        raise CommandError("--data-file is not UTF-8 text") from None
    except OSError as error:
        raise CommandError(f"--data-file can't be read: {error.strerror}") from None


def _address_kind(address: str) -> str:
    return "email" if "@" in address else "phone"


def _channels_for(address: str | None) -> list[str]:
    """An address says how; without one, the category's default channels do."""
    if address is None:
        return []
    return [Channel.EMAIL.value if "@" in address else Channel.SMS.value]


def _user_of(address: str) -> str:
    """A user id for somebody of whom only an address is known. Ids are logged, so it is not the address itself."""
    return f"address-{hashlib.sha256(address.strip().lower().encode()).hexdigest()[:20]}"
