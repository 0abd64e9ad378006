"""What AWS End User Messaging tells of SMS, and what people answer, as it comes by SNS.

https://docs.aws.amazon.com/sms-voice/latest/userguide/configuration-sets-event-format.html
https://docs.aws.amazon.com/sms-voice/latest/userguide/two-way-sms-payload.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from models.enums import Channel, EventKind
from models.provider_events import ProviderEvent
from streams.providers.event_fields import event, moment, section, whose, word, words

PROVIDER = "sns"

#: https://docs.aws.amazon.com/sms-voice/latest/userguide/configuration-sets-event-types.html
_KINDS = {
    "TEXT_QUEUED": EventKind.ACCEPTED,
    "TEXT_PENDING": EventKind.ACCEPTED,
    "TEXT_SENT": EventKind.ACCEPTED,
    "TEXT_SUCCESSFUL": EventKind.ACCEPTED,  # by the carrier; see `_kind`
    "TEXT_DELIVERED": EventKind.DELIVERED,
    "TEXT_INVALID": EventKind.BOUNCED,  # no such number
    "TEXT_INVALID_MESSAGE": EventKind.FAILED,
    "TEXT_UNREACHABLE": EventKind.FAILED,
    "TEXT_CARRIER_UNREACHABLE": EventKind.FAILED,
    "TEXT_BLOCKED": EventKind.FAILED,
    "TEXT_CARRIER_BLOCKED": EventKind.FAILED,
    "TEXT_PROTECT_BLOCKED": EventKind.FAILED,
    "TEXT_SPAM": EventKind.FAILED,
    "TEXT_TTL_EXPIRED": EventKind.FAILED,
    "TEXT_UNKNOWN": EventKind.UNKNOWN,
}
#: Whole answers that end, and that resume, all messages from a number.
#: https://docs.aws.amazon.com/sms-voice/latest/userguide/keywords-required.html
_STOP = frozenset(
    {"ARRET", "CANCEL", "END", "OPT-OUT", "OPTOUT", "QUIT", "REMOVE", "STOP", "STOPALL", "TD", "UNSUBSCRIBE"}
)
_START = frozenset({"START", "UNSTOP"})
_KEPT = ("eventType", "messageStatus", "isFinal", "isoCountryCode", "mcc", "mnc", "messageType", "totalMessageParts")
_PHONE = re.compile(r"\+?[0-9]{3,20}")
_LONGEST_ID = 255


def sms_events(told: Mapping[str, Any], *, message_id: str, sent_at: datetime) -> list[ProviderEvent]:
    """Of a message, or of an answer that asks for no more; what else people write is not kept."""
    if "originationNumber" in told:
        return _answer(told, message_id=message_id, sent_at=sent_at)
    if not isinstance(told.get("eventType"), str):
        return []
    kind = _kind(told)
    return [
        event(
            event_id=f"{PROVIDER}:{message_id}",
            provider=PROVIDER,
            channel=Channel.SMS,
            kind=kind,
            occurred_at=moment(told.get("eventTimestamp"), otherwise=sent_at),
            provider_message_id=_id(told.get("messageId")),
            address=_phone(told.get("destinationPhoneNumber")),
            is_permanent=kind is EventKind.BOUNCED,
            reason=word(told["eventType"]),
            raw=words(told, _KEPT),
            **whose(section(told, "context")),
        )
    ]


def _kind(told: Mapping[str, Any]) -> EventKind:
    kind = _KINDS.get(told["eventType"], EventKind.UNKNOWN)
    # In countries whose carriers tell no more, their yes is the last word.
    if told["eventType"] == "TEXT_SUCCESSFUL" and told.get("isFinal") is True:
        return EventKind.DELIVERED
    return kind


def _answer(told: Mapping[str, Any], *, message_id: str, sent_at: datetime) -> list[ProviderEvent]:
    said = {_normal(told.get(name)) for name in ("messageBody", "messageKeyword")}
    address = _phone(told.get("originationNumber"))
    kind = EventKind.UNSUBSCRIBED if said & _STOP else EventKind.RESUBSCRIBED if said & _START else None
    if kind is None or address is None:
        return []
    return [
        event(
            event_id=f"{PROVIDER}:{_id(told.get('inboundMessageId')) or message_id}",
            provider=PROVIDER,
            channel=Channel.SMS,
            kind=kind,
            occurred_at=sent_at,
            provider_message_id=_id(told.get("previousPublishedMessageId")),
            address=address,
            is_of_all=True,
            reason=next(iter(said & (_STOP | _START))),
        )
    ]


def _normal(value: object) -> str:
    return value.strip().strip(".!\"'").strip().upper() if isinstance(value, str) and len(value) <= 40 else ""


def _id(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID else None


def _phone(value: object) -> str | None:
    return value if isinstance(value, str) and _PHONE.fullmatch(value) else None
