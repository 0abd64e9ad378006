"""The demonstration of `comms up`: one notification over HTTP, one straight through Kafka, each step as it happens."""

from __future__ import annotations

import asyncio
import email
import email.policy
import time
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cli import CommandError
from cli.commands.status import has_ended
from cli.embedded.home import Home
from cli.render import safe

if TYPE_CHECKING:
    from cli.client import Api

USER = "ada"
ADDRESS = "ada@example.com"
TEMPLATE: dict[str, Any] = {
    "key": "welcome",
    "locale": "en",
    "channels": {
        "email": {
            "subject": "Welcome, {{ name }}!",
            "text": "Hello {{ name }},\n\nthis mail came {{ way }}.\n",
            "html": "<p>Hello <b>{{ name }}</b>,</p><p>this mail came {{ way }}.</p>",
        },
        "in_app": {"title": "Welcome, {{ name }}!", "body": "This message came {{ way }}."},
    },
}
_TOPIC = "notification.requests.high"
_POLL_SECONDS = 0.05
_PATIENCE_SECONDS = 60.0
_MAIL_SECONDS = 3.0

Say = Callable[[str], None]


def run_demo(environment: Mapping[str, str], *, say: Say = lambda line: print(line, flush=True)) -> None:
    """Sends two notifications and tells how each gets on. Blocks until both have ended.

    Raises:
        CommandError: when the API refuses, or a notification has not ended after a minute.
    """
    from cli.client import connect

    home = Home.locate(environment.get("COMMS_HOME"))
    with (
        connect(environment, home, roles=("admin", "service"), user_id="demo") as api,
        connect(environment, home, roles=("user",), user_id=USER) as inbox,
    ):
        ensure_template(api)
        tour = Tour(api, inbox, home.mail, say)
        say("")
        say(f"A notification over HTTP, to {USER} by e-mail and in the app:")
        tour.over_http()
        say("")
        say("Another one straight to Kafka, as any other service would publish it:")
        tour.over_kafka(environment)
    say("")
    say("Try your own:  comms send --to ada@example.com --subject Hello --text 'It works' --follow")
    say("Ctrl-C stops everything; what was sent is still there after the next start.")


def ensure_template(api: Api) -> None:
    """Creates the template of the demo, unless there is one by that name."""
    from cli.client import ApiRefused

    try:
        api.call("POST", "/api/v1/templates", body=TEMPLATE)
    except ApiRefused as error:
        if error.code != "already_exists":
            raise


def request_for(way: str, notification_id: str) -> dict[str, Any]:
    """The request of the demo; HTTP body and Kafka value are the same."""
    return {
        "id": notification_id,
        "user_id": USER,
        "channels": ["email", "in_app"],
        "template_id": TEMPLATE["key"],
        "data": {"name": "Ada", "way": way},
        "recipient": {"email": ADDRESS},
    }


class Tour:
    """Follows one notification after the other and says what it sees."""

    def __init__(self, api: Api, inbox: Api, mail: Path, say: Say) -> None:
        self._api = api
        self._inbox = inbox
        self._mail = mail
        self._say = say
        self._begun = datetime.now(UTC)

    def over_http(self) -> None:
        request = request_for("through the HTTP API", str(uuid.uuid4()))
        self._begun = datetime.now(UTC)
        accepted = self._api.send({**request, "priority": "high"})
        self._tell(datetime.now(UTC), f"http    202 {accepted['status']}, its id is {accepted['notification_id']}")
        self._follow(request["id"])

    def over_kafka(self, environment: Mapping[str, str]) -> None:
        request = request_for("straight from a Kafka topic", str(uuid.uuid4()))
        self._begun = datetime.now(UTC)
        partition, offset = asyncio.run(publish(environment, request))
        self._tell(datetime.now(UTC), f"kafka   record on {_TOPIC}, partition {partition}, offset {offset}")
        self._follow(request["id"])

    def _follow(self, notification_id: str) -> None:
        """Each step of the timeline, then the mail and the inbox."""
        seen: set[str] = set()
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            notification = self._ask(notification_id)
            for entry in notification.get("timeline", ()):
                self._step(entry, seen)
            if has_ended(str(notification["status"])):
                break
            if time.monotonic() > deadline:
                raise CommandError(f"{notification_id} has not ended after a minute: {notification['status']}")
            time.sleep(_POLL_SECONDS)
        sent = {item["channel"] for item in notification.get("deliveries", ()) if item["status"] == "sent"}
        if "email" in sent:
            self._show_mail(notification_id)
        if "in_app" in sent:
            self._show_inbox(notification_id)

    def _ask(self, notification_id: str) -> dict[str, Any]:
        """The notification; one that is on its way to its lane still counts as unknown."""
        from cli.client import ApiRefused

        try:
            return self._api.notification(notification_id)
        except ApiRefused as error:
            if error.code != "not_found":
                raise
            return {"status": "unknown"}

    def _step(self, entry: Mapping[str, Any], seen: set[str]) -> None:
        words = (f"{entry.get('channel') or '':<7}", entry.get("event"), entry.get("detail"))
        line = " ".join(safe(word) for word in words if word)
        if line not in seen:
            seen.add(line)
            self._tell(datetime.fromisoformat(str(entry["at"])), line)

    def _show_mail(self, notification_id: str) -> None:
        deadline = time.monotonic() + _MAIL_SECONDS
        found = None
        while found is None and time.monotonic() < deadline:
            found = find_mail(self._mail, notification_id)
            if found is None:
                time.sleep(_POLL_SECONDS)
        if found is None:
            self._tell(datetime.now(UTC), "the mail went to SMTP_HOST, which is no catcher of ours")
            return
        file, subject = found
        caught = datetime.fromtimestamp(file.stat().st_mtime, UTC)
        self._tell(caught, f"mail    caught: “{safe(subject)}” in {file}")

    def _show_inbox(self, notification_id: str) -> None:
        items = self._inbox.call("GET", "/api/v1/inbox?limit=20").get("items", ())
        for item in items:
            if item.get("notification_id") == notification_id:
                self._tell(datetime.now(UTC), f"inbox   of {USER}: “{safe(item.get('title'))}”")

    def _tell(self, at: datetime, what: str) -> None:
        seconds = max(0.0, (at - self._begun).total_seconds())
        self._say(f"  {seconds:7.3f} s  {what}")


def find_mail(folder: Path, notification_id: str) -> tuple[Path, str] | None:
    """The newest caught mail of a notification, and its subject."""
    wanted = notification_id.lower()
    for file in sorted(folder.glob("*.eml"), reverse=True):
        with file.open("rb") as content:
            message = email.message_from_binary_file(content, policy=email.policy.default)
        if str(message["X-Notification-ID"] or "").strip().lower() == wanted:
            return file, str(message["Subject"] or "")
    return None


async def publish(environment: Mapping[str, str], request: Mapping[str, Any]) -> tuple[int, int]:
    """Publishes a request as another service would; returns its partition and offset.

    Raises:
        CommandError: when the broker doesn't answer.
    """
    import orjson
    from aiokafka import AIOKafkaProducer
    from aiokafka.errors import KafkaError

    from models.settings import Settings
    from streams.kafka import client_options

    known = {name.lower(): value for name, value in environment.items() if name.lower() in Settings.model_fields}
    settings = Settings(**known)  # type: ignore[arg-type]  # text, as the environment has it
    producer = AIOKafkaProducer(acks="all", enable_idempotence=True, **client_options(settings))
    try:
        await producer.start()
        written = await producer.send_and_wait(
            settings.kafka_topic_prefix + _TOPIC,
            orjson.dumps(request),
            key=str(request["user_id"]).encode(),
            headers=[("content-type", b"application/json"), ("client-id", b"demo")],
        )
    except (KafkaError, OSError) as error:
        raise CommandError(f"Kafka does not answer ({type(error).__name__})") from None
    finally:
        await producer.stop()
    return written.partition, written.offset
