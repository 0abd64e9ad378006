"""Reading one dead letter from its topic: why it died and where it came from; its content only when asked for."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from aiokafka import TopicPartition

from cli import CommandError
from cli.servers import kafka_admin, kafka_reader, partitions
from models.addresses import masked
from models.ids import rfc3339
from models.settings import Settings
from streams.letter_headers import HEADERS, REPLAY_GENERATION, REPLAY_OF, TRUNCATED
from streams.records import Incoming, headers_from
from streams.topics import DEAD_LETTERS

_ID = re.compile(r"^(\d{1,9})-(\d{1,18})$", re.ASCII)
_READ_SECONDS = 15.0
#: Headers whose values the service knows to be harmless. Others may hold anything, so they count as content.
_HARMLESS = HEADERS | {
    "content-type",
    "traceparent",
    "due-at",
    "return-topic",
    "client-id",
    TRUNCATED,
    REPLAY_GENERATION,
    REPLAY_OF,
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where a dead letter lies in its topic."""

    partition: int
    offset: int

    @classmethod
    def of(cls, identifier: str) -> Place:
        """Raises CommandError when the id isn't `<partition>-<offset>`."""
        match = _ID.match(identifier)
        if match is None:
            raise CommandError("a dead letter's id is <partition>-<offset>, as `comms dlq list` shows it")
        return cls(int(match[1]), int(match[2]))

    def __str__(self) -> str:
        return f"{self.partition}-{self.offset}"


async def read(settings: Settings, place: Place) -> Incoming:
    """The dead letter's record.

    Raises:
        CommandError: when it isn't there (any more), or the broker doesn't answer.
    """
    topic = settings.kafka_topic_prefix + DEAD_LETTERS
    where = TopicPartition(topic, place.partition)
    async with kafka_admin(settings) as admin:
        if place.partition not in (await partitions(admin)).get(topic, ()):
            raise CommandError(f"the topic {topic} has no partition {place.partition}")
    async with kafka_reader(settings) as consumer:
        first = (await consumer.beginning_offsets([where]))[where]
        end = (await consumer.end_offsets([where]))[where]
        if not first <= place.offset < end:
            held = f"offsets {first} to {end - 1}" if end > first else "nothing"
            raise CommandError(f"no dead letter {place}: partition {place.partition} holds {held}")
        consumer.assign([where])
        consumer.seek(where, place.offset)
        try:
            record = await asyncio.wait_for(consumer.getone(where), _READ_SECONDS)
        except TimeoutError:
            raise CommandError(f"{topic} gave no record at {place} within {_READ_SECONDS:g} s") from None
    if record.offset != place.offset:
        raise CommandError(f"no dead letter {place}: that offset holds no record")
    return Incoming(
        DEAD_LETTERS,
        record.partition,
        record.offset,
        record.timestamp,
        record.key,
        record.value,
        headers_from(record.headers),
    )


def described(record: Incoming, *, content: bool) -> dict[str, Any]:
    """The dead letter for people and programs. Without `content` its value is told by size and hash only."""
    told = {
        "id": f"{record.partition}-{record.offset}",
        "failed_at": record.header("failed-at"),
        "stage": record.header("stage"),
        "error_class": record.header("error-class"),
        "error_reason": record.header("error-reason"),
        "attempts": _number(record.header("attempts")),
        "notification_id": record.header("notification-id"),
        "channel": record.header("channel"),
        "source": {
            "topic": record.header("source-topic"),
            "partition": _number(record.header("source-partition")),
            "offset": _number(record.header("source-offset")),
        },
        "written_at": rfc3339(datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)),
        "key": _key(record.key, content=content),
        "headers": [
            {"name": name, "value": _header_value(name, value, content=content)} for name, value in record.headers
        ],
        "value": None if record.value is None else _fingerprint(record.value),
    }
    if content and record.value is not None:
        told["content"] = _content(record.value)
    return told


def _number(value: str | None) -> int | None:
    return int(value) if value is not None and value.isdecimal() else None


def _key(key: bytes | None, *, content: bool) -> str | None:
    """Keys are user ids. Some producers take an address for one: that is masked."""
    if key is None:
        return None
    text = key.decode("utf-8", "backslashreplace")
    return text if content or "@" not in text else masked(text)


def _header_value(name: str, value: bytes | None, *, content: bool) -> str | None:
    if value is None:
        return None
    if name in _HARMLESS or content:
        return value.decode("utf-8", "backslashreplace")
    return f"({len(value)} bytes, hidden)"


def _fingerprint(value: bytes) -> dict[str, Any]:
    return {"bytes": len(value), "sha256": hashlib.sha256(value).hexdigest()}


def _content(value: bytes) -> dict[str, str]:
    """The value as text where it is text, else in base64: byte for byte either way."""
    try:
        return {"text": value.decode()}
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}
