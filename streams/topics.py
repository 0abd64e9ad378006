"""The one catalogue of Kafka topics: name, partitions, retention. Nothing else names a topic."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta

from models.enums import Channel, Priority

DAY_MS = 86_400_000
#: Topics with content keep it at most this long.
RETENTION = timedelta(days=7)
REQUEST_BYTES = 640 * 1024  # 512 KiB of value, and room for key, headers and batch overhead
INTERNAL_BYTES = 2 * 1024 * 1024 + 128 * 1024

#: The delay tiers, shortest first.
TIERS: dict[str, timedelta] = {
    "1s": timedelta(seconds=1),
    "5s": timedelta(seconds=5),
    "30s": timedelta(seconds=30),
    "2m": timedelta(minutes=2),
    "10m": timedelta(minutes=10),
    "1h": timedelta(hours=1),
}


@dataclass(frozen=True, slots=True)
class Topic:
    """One topic as the service creates it. `name` carries no prefix."""

    name: str
    #: What its values are, for people.
    value: str
    #: Whether other programs may write it (the rest is the service's own; see the ACLs in the docs).
    public: bool = False
    max_bytes: int = INTERNAL_BYTES
    compacted: bool = False
    config: dict[str, str] = field(default_factory=dict)

    def settings(self) -> dict[str, str]:
        """Topic configuration for the broker."""
        retention = (
            {"cleanup.policy": "compact"}
            if self.compacted
            else {
                "cleanup.policy": "delete",
                "retention.ms": str(RETENTION // timedelta(milliseconds=1)),
            }
        )
        return {**retention, "max.message.bytes": str(self.max_bytes), **self.config}


def request_topic(priority: Priority) -> str:
    """Where requests of one priority come in."""
    return f"notification.requests.{priority}"


def send_topic(channel: Channel, priority: Priority) -> str:
    """Where rendered deliveries wait for one channel lane."""
    return f"notification.send.{channel}.{priority}"


def delay_topic(tier: str) -> str:
    """Where records wait that are due later; `tier` is a key of `TIERS`."""
    return f"notification.delay.{tier}"


DEAD_LETTERS = "notification.dlq"
SENT = "notification.sent"
FAILED = "notification.failed"
STATUS = "notification.status"
CONTACTS = "user.contacts"
CONVERSATION_MESSAGES = "conversation.message.sent"
PROVIDER_EVENTS = "provider.events"


def _catalogue() -> Iterable[Topic]:
    for priority in Priority:
        yield Topic(request_topic(priority), "notification request", public=True, max_bytes=REQUEST_BYTES)
    for channel in Channel:
        for priority in Priority:
            yield Topic(send_topic(channel, priority), "rendered delivery")
    for tier in TIERS:
        yield Topic(delay_topic(tier), "any record, with due-at and return-topic")
    yield Topic(DEAD_LETTERS, "the failed record, unchanged")
    yield Topic(SENT, "sent event")
    yield Topic(FAILED, "failed event")
    yield Topic(STATUS, "status event")
    yield Topic(CONVERSATION_MESSAGES, "conversation message event")
    yield Topic(PROVIDER_EVENTS, "normalised provider event")
    yield Topic(CONTACTS, "contact", public=True, compacted=True, max_bytes=REQUEST_BYTES)


#: All topics by name, without prefix.
CATALOGUE: dict[str, Topic] = {topic.name: topic for topic in _catalogue()}
