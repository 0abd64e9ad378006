"""What replaying a dead letter means: the record that goes back, or why none does. Pure.

A replay is a new generation of what failed: the letter's own and one. So the same letter gives the same record however
often it is replayed, the claims of that generation absorb the copies, and what fails again is a letter of the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from uuid import UUID

import orjson

from models.deliveries import Delivery
from models.enums import Channel, Priority, Status
from models.errors import Refused
from models.ids import from_record
from models.replays import Stands
from models.requests import parse
from streams.delays import DUE_AT, RETURN_TOPIC
from streams.letter_headers import HEADERS, REPLAY_GENERATION, REPLAY_OF, TRUNCATED
from streams.records import Headers, Incoming, Outgoing
from streams.topics import CATALOGUE, request_topic, send_topic

#: What was replayed so often is replayed again only by force.
CEILING = 3
#: No more than these by force either: a generation is a small number in the database.
LAST_GENERATION = 10_000

REQUEST_TOPICS = frozenset(request_topic(priority) for priority in Priority)
SEND_TOPICS = frozenset(send_topic(channel, priority) for channel in Channel for priority in Priority)
#: Postponed requests are known by it, and so is a replayed one that brings no id of its own.
_KNOWN_AS = "notification-id"
#: Of an earlier way through a lane: a slot under a limit, a lease that somebody had.
_PASSING_MARKS = frozenset({"slot-at", "asked-again"})


class WhyNot(StrEnum):
    """Why a dead letter is not replayed."""

    #: replayed before, by this or another replay
    ALREADY_REPLAYED = "already_replayed"
    #: replayed too often before
    CEILING = "too_often"
    #: the topic keeps its letters for a week
    GONE = "past_retention"
    #: was too large for its topic, so only its headers were kept
    TRUNCATED = "truncated"
    #: came from a topic that no replay goes to
    NO_TOPIC = "no_topic"
    #: larger than its topic takes
    TOO_LARGE = "too_large"
    #: a message of this delivery arrived meanwhile
    ALREADY_SENT = "already_sent"
    #: cancelled meanwhile
    CANCELLED = "cancelled"


#: What will never change, so that it is kept in the index.
LASTING = frozenset({WhyNot.GONE, WhyNot.TRUNCATED, WhyNot.NO_TOPIC, WhyNot.TOO_LARGE})

IN_WORDS = {
    WhyNot.ALREADY_REPLAYED: "was replayed before; what failed again is a letter of its own",
    WhyNot.CEILING: f"was replayed {CEILING} times or more; --force does it again",
    WhyNot.GONE: "is past the topic's retention: only its row in the index is left",
    WhyNot.TRUNCATED: "was larger than its topic takes, so its value was not kept",
    WhyNot.NO_TOPIC: "came from a topic that no replay goes to",
    WhyNot.TOO_LARGE: "is larger than its topic takes",
    WhyNot.ALREADY_SENT: "its message was sent meanwhile",
    WhyNot.CANCELLED: "was cancelled meanwhile",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """A dead letter on its way back."""

    record: Outgoing
    generation: int
    #: The rendered delivery, where it is one: as it will be claimed.
    delivery: Delivery | None = None


def plan(letter: Incoming, *, force: bool = False) -> Replay | WhyNot:
    """The record that a replay of this letter writes, the same each time; or why there is none."""
    if letter.value is None and letter.header(TRUNCATED) is not None:
        return WhyNot.TRUNCATED
    topic = destination(letter)
    if topic is None:
        return WhyNot.NO_TOPIC
    generation = generation_of(letter)
    if generation >= (LAST_GENERATION if force else CEILING):
        return WhyNot.CEILING
    if topic in SEND_TOPICS:
        replay = _delivery(letter, topic, generation + 1)
    else:
        replay = _request(letter, topic, generation + 1)
    return WhyNot.TOO_LARGE if _is_too_large(letter, replay.record) else replay


def destination(letter: Incoming) -> str | None:
    """The topic it goes back to: a request or send topic; for what died on a delay topic, the one it was bound for."""
    topic = letter.header("source-topic") or ""
    if topic.startswith("notification.delay."):
        topic = letter.header(RETURN_TOPIC) or ""
    return topic if topic in REQUEST_TOPICS | SEND_TOPICS else None


def may_go_back(topic: str) -> bool:
    """Whether what died on this topic can go anywhere, as far as the topic tells."""
    return topic in REQUEST_TOPICS | SEND_TOPICS or topic.startswith("notification.delay.")


def generation_of(record: Incoming) -> int:
    """How often the record was replayed before: told by its header, and by its value where it is a delivery."""
    return max(said_generation(record), _value_generation(record))


def said_generation(record: Incoming) -> int:
    """What the header says; 0 without one, or where it can't be true."""
    text = record.header(REPLAY_GENERATION) or ""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5):
        return 0
    return int(text) if int(text) <= LAST_GENERATION else 0


def replay_headers(record: Incoming) -> Headers:
    """The headers that say that a record is a replay, for its way through a delay."""
    return tuple(pair for pair in record.headers if pair[0] in (REPLAY_GENERATION, REPLAY_OF))


def _value_generation(record: Incoming) -> int:
    source = record.header("source-topic") or record.topic
    if not source.startswith(("notification.send.", "notification.delay.")):
        return 0
    found = _members(record.value).get("generation")
    return found if isinstance(found, int) and 0 <= found <= LAST_GENERATION else 0


def _delivery(letter: Incoming, topic: str, generation: int) -> Replay:
    headers = _headers(letter, generation)
    try:
        failed = parse(Delivery, letter.value or b"")
    except Refused:
        return Replay(record=Outgoing(topic, letter.key, letter.value, headers), generation=generation)
    again = failed.model_copy(update={"generation": generation, "attempt": 1, "tries": 0, "ambiguous": 0})
    record = Outgoing(topic, letter.key, again.record_value(), headers)
    return Replay(record=record, generation=generation, delivery=again)


def _request(letter: Incoming, topic: str, generation: int) -> Replay:
    headers = _headers(letter, generation)
    known_as = _known_as(letter)
    if known_as is not None:
        kept = tuple(pair for pair in headers if pair[0] != _KNOWN_AS)
        headers = (*kept, (_KNOWN_AS, str(known_as).encode()))
    return Replay(record=Outgoing(topic, letter.key, letter.value, headers), generation=generation)


def _headers(letter: Incoming, generation: int) -> Headers:
    """The record's own headers, without what told of its death, of its delay and of an earlier replay."""
    dropped = {*HEADERS, DUE_AT, RETURN_TOPIC, REPLAY_GENERATION, REPLAY_OF, *_PASSING_MARKS}
    kept = tuple(pair for pair in letter.headers if pair[0] not in dropped)
    of = f"{letter.partition}-{letter.offset}"
    return (*kept, (REPLAY_GENERATION, str(generation).encode()), (REPLAY_OF, of.encode()))


def _known_as(letter: Incoming) -> UUID | None:
    """The id under which the request goes on: it had one from its place on the topic, which is another one now.

    None where it brings one itself.
    """
    members = _members(letter.value)
    if "id" in members:
        return None
    told = letter.header(_KNOWN_AS)
    if told is not None:
        try:
            return UUID(told)
        except ValueError:
            return None
    if "idempotency_key" in members:
        return None
    return from_record("dead-letter", letter.topic, letter.partition, letter.offset, letter.timestamp_ms)


def _members(value: bytes | None) -> dict[str, object]:
    try:
        found = orjson.loads(value or b"")
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_too_large(letter: Incoming, record: Outgoing) -> bool:
    """By no less than what the producer counts: it would refuse the whole batch."""
    as_read = Incoming(record.topic, 0, 0, letter.timestamp_ms, record.key, record.value, record.headers)
    return as_read.size_bytes + 1024 + 6 * len(record.headers) > CATALOGUE[record.topic].max_bytes


@dataclass(frozen=True, slots=True)
class Again:
    """A request that is planned anew: in which generation, and on which channels (all where None)."""

    generation: int
    channels: frozenset[Channel] | None = None


def may_again(replay: int, *, status: Status, generation: int, stand: Mapping[Channel, Stands] | None) -> Again | None:
    """What a replayed request may do anew, that was handed on before; None where it is taken as any repeat.

    What was sent, or is on its way, stays; only what failed gets the new generation. `status` and `generation` are the
    notification's, `stand` is where its channels are; without any it is the request itself that failed.
    """
    latest = max([generation, *(one.generation for one in (stand or {}).values())])
    if not 0 < replay <= latest + 1 or status is Status.CANCELLED:
        return None
    if not stand:
        return Again(replay) if status is Status.FAILED and generation < replay else None
    failed = {
        channel
        for channel, one in stand.items()
        if one.status is Status.FAILED and one.generation < replay and not one.is_cancelled
    }
    return Again(replay, frozenset(failed)) if failed else None
