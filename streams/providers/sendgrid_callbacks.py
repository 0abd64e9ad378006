"""SendGrid's signed event webhook: batches of what happened to e-mails.

A body holds up to thousands of events of many deliveries. One odd element never costs the others theirs: SendGrid
repeats a refused body as a whole for 24 hours.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar
from uuid import UUID

import orjson
import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pydantic import ValidationError

from models.enums import Channel, EventKind
from models.errors import Refused
from models.provider_events import ProviderEvent
from models.settings import Settings
from streams import metrics
from streams.providers.callbacks import Callback, CallbackSource, NotVerified, Stale

log = structlog.get_logger()

#: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event#event-objects
_KINDS: Mapping[str, EventKind] = {
    "processed": EventKind.ACCEPTED,
    "deferred": EventKind.DEFERRED,
    "delivered": EventKind.DELIVERED,
    "open": EventKind.OPENED,
    "click": EventKind.CLICKED,
    "bounce": EventKind.BOUNCED,
    # Taken, and then not sent, as SendGrid keeps a list of its own of whom it doesn't write to.
    "dropped": EventKind.FAILED,
    "spamreport": EventKind.COMPLAINED,
    "unsubscribe": EventKind.UNSUBSCRIBED,
    "group_unsubscribe": EventKind.UNSUBSCRIBED,
    "group_resubscribe": EventKind.RESUBSCRIBED,
}
#: https://www.twilio.com/docs/sendgrid/for-developers/tracking-events/event#dropped: a text of which these beginnings
#: are known. The rest may hold anything and is not repeated.
_DROP_REASONS: Mapping[str, str] = {
    "bounced address": "dropped: bounced address",
    "unsubscribed address": "dropped: unsubscribed address",
    "spam reporting address": "dropped: spam reporting address",
    "invalid smtpapi header": "dropped: invalid SMTPAPI header",
    "invalid": "dropped: invalid address",
    "spam content": "dropped: spam content",
    "recipient list over package quota": "dropped: over quota",
}
#: What is kept of an event: vocabulary and numbers. Left out: `email`, `ip`, `useragent`, `url`, `reason` and
#: `response` (they quote addresses and content), `smtp-id`, categories, and whatever else a sender put in.
_KEPT = (
    "event",
    "type",
    "status",
    "bounce_classification",
    "attempt",
    "asm_group_id",
    "sg_machine_open",
    "tls",
    "sg_event_id",
    "sg_message_id",
    "timestamp",
)
#: https://datatracker.ietf.org/doc/html/rfc3463#section-2
_ENHANCED_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}")
_CLASSIFICATION = re.compile(r"[A-Za-z][A-Za-z /-]{0,63}")
_TIMESTAMP = re.compile(r"\d{1,12}")
_LONGEST_WORD = 255
_LONGEST_ADDRESS = 320
_AHEAD = timedelta(minutes=5)

_SIGNATURE_HEADER = "x-twilio-email-event-webhook-signature"
_TIMESTAMP_HEADER = "x-twilio-email-event-webhook-timestamp"


class SendGridCallbacks(CallbackSource):
    """Verifies and reads what SendGrid posts."""

    name: ClassVar[str] = "sendgrid"

    def __init__(self, settings: Settings) -> None:
        """Reads the key.

        Raises:
            Refused: when SENDGRID_WEBHOOK_PUBLIC_KEY is missing or no key.
        """
        if not settings.sendgrid_webhook_public_key:
            raise Refused("SENDGRID_WEBHOOK_PUBLIC_KEY", "is not set")
        self._key = _public_key(settings.sendgrid_webhook_public_key)
        self._tolerance = timedelta(seconds=settings.webhook_tolerance_seconds)

    async def verify(self, callback: Callback) -> None:
        """ECDSA over timestamp and raw body, trailing line ends included."""
        timestamp = callback.headers.get(_TIMESTAMP_HEADER, "")
        encoded = callback.headers.get(_SIGNATURE_HEADER, "")
        if not encoded or not _TIMESTAMP.fullmatch(timestamp) or not timestamp.isascii():
            raise NotVerified("signature or timestamp is missing")
        try:
            signature = base64.b64decode(encoded, validate=True)
        except ValueError:
            raise NotVerified("signature is not base64") from None
        try:
            self._key.verify(signature, timestamp.encode() + callback.body, ECDSA(SHA256()))
        except InvalidSignature:
            raise NotVerified("signature does not match") from None
        self._check_time(int(timestamp), callback.received_at)

    def _check_time(self, timestamp: int, received_at: datetime) -> None:
        late_seconds = received_at.timestamp() - timestamp
        if late_seconds > self._tolerance.total_seconds():
            raise Stale("signed too long ago")
        if -late_seconds > min(self._tolerance, _AHEAD).total_seconds():
            raise Stale("signed for the future")

    async def parse_events(self, callback: Callback) -> list[ProviderEvent]:
        """An event for each element; what is none is left out and counted."""
        elements = _decoded(callback.body)
        if not isinstance(elements, list):
            raise Refused("body", "must be a list of events")
        events = [event for element in elements if (event := _event(element, callback.received_at)) is not None]
        odd = len(elements) - len(events)
        if odd:
            metrics.CALLBACK_ODD.labels(self.name).inc(odd)
            log.warning("callback elements left out", provider=self.name, count=odd)
        return events


def _public_key(text: str) -> EllipticCurvePublicKey:
    wrong = Refused("SENDGRID_WEBHOOK_PUBLIC_KEY", "must be a verification key as SendGrid's console shows it")
    try:
        key = load_der_public_key(base64.b64decode("".join(text.split()), validate=True))
    except ValueError:
        raise wrong from None
    if not isinstance(key, EllipticCurvePublicKey):
        raise wrong
    return key


def _decoded(body: bytes) -> Any:
    """The body as JSON. The strict decoder is fast; the lax one reads what it refuses for one text in one element."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(body.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        raise Refused("body", "is not valid JSON") from None


def _event(element: Any, received_at: datetime) -> ProviderEvent | None:
    """One element as an event; None for what tells of nothing that could be matched."""
    if not isinstance(element, dict):
        return None
    kind = _kind(element)
    try:
        return ProviderEvent(
            event_id=_event_id(element),
            provider=SendGridCallbacks.name,
            channel=Channel.EMAIL,
            kind=kind,
            occurred_at=_occurred_at(element.get("timestamp"), received_at),
            is_of_all=element.get("event") == "unsubscribe",
            is_permanent=kind is EventKind.BOUNCED and _is_permanent(element),
            raw=_raw(element),
            **_known(
                delivery_id=_uuid(element.get("delivery_id")),
                notification_id=_uuid(element.get("notification_id")),
                generation=_number(element.get("generation"), least=0),
                attempt=_attempt(element),
                provider_message_id=_message_id(element.get("sg_message_id")),
                address=_word(element.get("email"), _LONGEST_ADDRESS),
                reason=_reason(element),
            ),
        )
    except (ValidationError, RecursionError):
        return None


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _kind(element: Mapping[str, Any]) -> EventKind:
    """What it means. The picture that Apple's and others' proxies load tells that the mail has arrived, not that a
    person looked at it: it comes for every message, read or not, and would make "opened" mean nothing."""
    word = element.get("event")
    kind = _KINDS.get(word, EventKind.UNKNOWN) if isinstance(word, str) else EventKind.UNKNOWN
    if kind is EventKind.OPENED and element.get("sg_machine_open") is True:
        return EventKind.DELIVERED
    return kind


def _is_permanent(element: Mapping[str, Any]) -> bool:
    """Whether the address is dead. `blocked` is a refusal of this message: its address stays in use at SendGrid."""
    kind = element.get("type")
    if isinstance(kind, str) and kind.lower() == "blocked":
        return False
    status = element.get("status")
    return not (isinstance(status, str) and status.startswith("4"))


def _event_id(element: Mapping[str, Any]) -> str:
    given = _word(element.get("sg_event_id"), _LONGEST_WORD)
    if given is None:
        given = hashlib.sha256(json.dumps(element, sort_keys=True).encode()).hexdigest()
    return f"{SendGridCallbacks.name}:{given}"


def _occurred_at(timestamp: Any, received_at: datetime) -> datetime:
    """In seconds since 1970. What can't be, or hasn't been yet, counts as now."""
    if isinstance(timestamp, bool) or not isinstance(timestamp, int | float):
        return received_at
    if not 0 <= timestamp <= received_at.timestamp():
        return received_at
    return datetime.fromtimestamp(timestamp, UTC)


def _message_id(value: Any) -> str | None:
    """The part before the first dot is what mail/send answered as X-Message-Id."""
    word = _word(value, _LONGEST_WORD)
    return None if word is None else word.partition(".")[0] or None


def _reason(element: Mapping[str, Any]) -> str | None:
    if element.get("event") == "dropped":
        text = str(element.get("reason", ""))[:_LONGEST_WORD].lower()
        return next((word for start, word in _DROP_REASONS.items() if text.startswith(start)), "dropped")
    status, classification = element.get("status"), element.get("bounce_classification")
    if isinstance(status, str) and _ENHANCED_STATUS.fullmatch(status):
        return status
    if isinstance(classification, str) and _CLASSIFICATION.fullmatch(classification):
        return classification
    return None


def _raw(element: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name in _KEPT:
        value = element.get(name)
        if isinstance(value, str):
            value = _word(value, _LONGEST_WORD)
            value = None if value is None or "@" in value else value
        if isinstance(value, str | bool) or _is_plain_number(value):
            kept[name] = value
    return kept


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and abs(value) < 2**63


def _word(value: Any, longest: int) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= longest and value.isprintable() else None


def _uuid(value: Any) -> UUID | None:
    """Of the custom arguments, which are texts."""
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def _attempt(element: Mapping[str, Any]) -> int | None:
    """Our own custom argument; only `deferred` has one of SendGrid's of the same name, which counts something else."""
    return None if element.get("event") == "deferred" else _number(element.get("attempt"), least=1)


def _number(value: Any, *, least: int) -> int | None:
    text = str(value) if isinstance(value, int | str) and not isinstance(value, bool) else ""
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 5 else -1
    return number if least <= number <= 32767 else None
