"""Dead letters for people and programs: what they tell without content, and with it."""

from __future__ import annotations

import base64
import hashlib
from datetime import UTC, datetime
from typing import Any

from models.addresses import masked
from models.ids import rfc3339
from models.repositories.dead_letter_search import StoredLetter
from streams.domain.replays import IN_WORDS, Replay, WhyNot, generation_of
from streams.letter_headers import HEADERS, REPLAY_GENERATION, REPLAY_OF, TRUNCATED
from streams.records import Incoming

#: Headers whose values the service knows to be harmless. Others may hold anything, so they count as content.
_HARMLESS = HEADERS | {
    "content-type",
    "traceparent",
    "due-at",
    "return-topic",
    "client-id",
    "slot-at",
    "asked-again",
    TRUNCATED,
    REPLAY_GENERATION,
    REPLAY_OF,
}


def indexed(row: StoredLetter) -> dict[str, Any]:
    """What the index tells of a letter."""
    told = {
        "id": row.id,
        "failed_at": rfc3339(row.failed_at),
        "stage": row.stage,
        "error_class": row.error_class,
        "error_reason": row.error_reason,
        "attempts": row.attempts,
        "generation": row.generation,
        "notification_id": str(row.notification_id) if row.notification_id else None,
        "channel": row.channel,
        "source": {"topic": row.source_topic, "partition": row.source_partition, "offset": row.source_offset},
        "replayed_at": rfc3339(row.replayed_at) if row.replayed_at else None,
        "replay_id": str(row.replay_id) if row.replay_id else None,
        "unreplayable": row.unreplayable,
    }
    return {name: value for name, value in told.items() if value is not None}


def described(record: Incoming, *, content: bool) -> dict[str, Any]:
    """The letter itself. Without `content` its value is told by size and hash only."""
    told = {
        "id": f"{record.partition}-{record.offset}",
        "failed_at": record.header("failed-at"),
        "stage": record.header("stage"),
        "error_class": record.header("error-class"),
        "error_reason": record.header("error-reason"),
        "attempts": _number(record.header("attempts")),
        "generation": generation_of(record),
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


def fate(foreseen: Replay | WhyNot | None) -> dict[str, Any]:
    """What replaying a letter would do, as `streams.replay.foreseen` says."""
    if foreseen is None:
        return {"possible": False, "told": "is not in the index: it is a copy of another letter"}
    if isinstance(foreseen, WhyNot):
        return {"possible": False, "why": str(foreseen), "told": IN_WORDS[foreseen]}
    topic = foreseen.record.topic
    what = f"goes back to {topic} as replay {foreseen.generation}"
    return {
        "possible": True,
        "topic": topic,
        "generation": foreseen.generation,
        "told": what if foreseen.delivery is None else f"{what}, its attempts counted from 1",
    }


def exported(row: StoredLetter, record: Incoming | None) -> dict[str, Any]:
    """All of a letter, byte for byte; where Kafka has it no more, what the index tells."""
    told = indexed(row)
    if record is None:
        return told | {"missing": str(WhyNot.GONE)}
    return told | {
        "key_base64": _base64(record.key),
        "value_base64": _base64(record.value),
        "headers": [{"name": name, "value_base64": _base64(value)} for name, value in record.headers],
    }


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


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
