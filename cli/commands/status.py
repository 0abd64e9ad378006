"""`comms status`: what became of a notification."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli import CommandError
from cli.render import Output, safe, style_of

if TYPE_CHECKING:
    from cli.client import Api

_POLL_SECONDS = 0.3
#: How long a follower puts up with an API that does not answer.
_PATIENCE_SECONDS = 60.0
_GOOD_ENDS = frozenset({"sent", "delivered", "opened", "clicked"})
_BAD_ENDS = frozenset({"failed", "suppressed", "expired", "cancelled", "bounced", "complained"})


def status(
    notification_id: Annotated[str, typer.Argument(metavar="ID", help="The notification's id.")],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until it has ended, showing each step.")] = False,
    timeout: Annotated[float, typer.Option(help="Give up following after so many seconds; 0: never.", min=0)] = 0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON; with --follow one line for each change.")] = False,
) -> None:
    """Show a notification's status, its deliveries and its timeline.

    With --follow the exit code is 0 when it was sent, and 1 when it ended otherwise.
    """
    from cli.client import connect
    from cli.embedded.home import Home

    check_id(notification_id)
    with connect(os.environ, Home.locate()) as api:
        if not follow:
            show(api.notification(notification_id), Output(), json=json)
            return
        final = follow_up(api, notification_id, Output(), json=json, timeout_seconds=timeout)
    if not went_well(final):
        raise typer.Exit(1)


def check_id(text: str) -> None:
    """Raises CommandError when it can't be a notification's id."""
    try:
        uuid.UUID(text)
    except ValueError:
        raise CommandError("a notification's id is a UUID, as `comms send` prints it") from None


def show(notification: Mapping[str, Any], output: Output, *, json: bool) -> None:
    """Prints a notification as it stands."""
    if json:
        output.json(notification)
        return
    shown = ("notification_id", "user_id", "status", "category", "priority", "created_at", "updated_at")
    output.facts({name.replace("_", " "): notification.get(name) for name in shown})
    _show_deliveries(notification.get("deliveries") or [], output)
    timeline = notification.get("timeline") or []
    if timeline:
        output.line()
        for entry in timeline:
            output.line(_step(entry), style=style_of(str(entry.get("event"))))


def follow_up(
    api: Api,
    notification_id: str,
    output: Output,
    *,
    json: bool,
    timeout_seconds: float = 0,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Prints each step as it happens until the notification has ended, then how it stands; returns that.

    Raises:
        CommandError: when `timeout_seconds` (0: none) are over before, or the API stays away.
    """
    begun = clock()
    steps = _Steps(output, json=json)
    answers = _Patient(api, clock)
    while True:
        notification = answers.notification(notification_id)
        if notification is not None:
            steps.show(notification)
            if has_ended(str(notification["status"])):
                if not json:
                    _show_deliveries(notification.get("deliveries") or [], output)
                return notification
        if timeout_seconds and clock() - begun > timeout_seconds:
            raise CommandError(f"{notification_id} has not ended after {timeout_seconds:g} s: {steps.last_status}")
        sleep(_POLL_SECONDS)


def has_ended(status: str) -> bool:
    """Whether the lanes have nothing more to do for it. A status of a newer service counts as open."""
    return status in _GOOD_ENDS or status in _BAD_ENDS


def went_well(notification: Mapping[str, Any]) -> bool:
    """Whether an ended notification reached somebody, as far as is known."""
    return notification["status"] in _GOOD_ENDS


class _Patient:
    """Asks the API, and bears with it while it restarts."""

    def __init__(self, api: Api, clock: Callable[[], float]) -> None:
        self._api = api
        self._clock = clock
        self._away_since: float | None = None

    def notification(self, notification_id: str) -> dict[str, Any] | None:
        from cli.client import ApiAway

        try:
            answer = self._api.notification(notification_id)
        except ApiAway:
            now = self._clock()
            self._away_since = self._away_since or now
            if now - self._away_since > _PATIENCE_SECONDS:
                raise
            return None
        self._away_since = None
        return answer


class _Steps:
    """Prints what is new in a notification since it was seen last."""

    def __init__(self, output: Output, *, json: bool) -> None:
        self._output = output
        self._json = json
        self._seen: set[str] = set()
        self._last: Mapping[str, Any] | None = None
        self.last_status = "unknown"

    def show(self, notification: Mapping[str, Any]) -> None:
        self.last_status = str(notification["status"])
        if self._json:
            if notification != self._last:
                self._output.json(notification, line=True)
            self._last = notification
            return
        for entry in notification.get("timeline") or []:
            step = _step(entry)
            if step not in self._seen:
                self._seen.add(step)
                self._output.line(step, style=style_of(str(entry.get("event"))))


def _step(entry: Mapping[str, Any]) -> str:
    parts = (entry.get("at"), f"{entry.get('channel') or '':<6}", entry.get("event"), entry.get("detail"))
    return "  ".join(safe(part) for part in parts if part)


def _show_deliveries(deliveries: list[Mapping[str, Any]], output: Output) -> None:
    if not deliveries:
        return
    output.line()
    output.table(
        ("channel", "status", "attempts", "provider", "reason", "provider's id"),
        [
            [item.get(name) for name in ("channel", "status", "attempts", "provider", "reason", "provider_message_id")]
            for item in deliveries
        ],
        right=("attempts",),
    )
