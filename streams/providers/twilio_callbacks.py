"""Twilio's callbacks: what became of an SMS, and people who write STOP or START to one of our numbers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar
from urllib.parse import parse_qs, parse_qsl, urlsplit
from uuid import UUID

import orjson
from twilio.request_validator import RequestValidator

from models.addresses import normal_phone
from models.enums import Channel, EventKind
from models.errors import Refused
from models.provider_events import ProviderEvent
from models.settings import Settings
from streams.providers.callbacks import Callback, CallbackSource, NotVerified

#: https://www.twilio.com/docs/messaging/api/message-resource#message-status-values
_KINDS: Mapping[str, EventKind] = {
    "accepted": EventKind.ACCEPTED,
    "scheduled": EventKind.ACCEPTED,
    "queued": EventKind.ACCEPTED,
    "sending": EventKind.ACCEPTED,
    "sent": EventKind.ACCEPTED,
    "delivered": EventKind.DELIVERED,
    "read": EventKind.OPENED,
    "undelivered": EventKind.FAILED,
    "failed": EventKind.FAILED,
    "canceled": EventKind.CANCELLED,
}
#: Not a message of ours, but one to us.
_INBOUND = frozenset({"received", "receiving"})

#: The person has opted out of this sender. A carrier's block (30004) has other causes too, and suppresses nobody.
#: https://www.twilio.com/docs/api/errors/21610
_OPTED_OUT = "21610"

#: https://www.twilio.com/docs/messaging/tutorials/advanced-opt-out#webhook-parameters: of accounts that use it.
_BY_TYPE: Mapping[str, EventKind | None] = {
    "STOP": EventKind.UNSUBSCRIBED,
    "START": EventKind.RESUBSCRIBED,
    "HELP": None,
}
#: https://help.twilio.com/articles/223134027: the words of all others. What is also an ordinary word ("end of June?",
#: "yes, I'll come") counts where it is the whole message; the rest also where more follows ("stop it please").
_STOP_FIRST = frozenset({"STOP", "STOPALL", "UNSUBSCRIBE", "OPTOUT", "REVOKE"})
_STOP_ALONE = frozenset({"CANCEL", "END", "QUIT"})
_START_ALONE = frozenset({"START", "UNSTOP", "YES"})

#: What is kept of a callback: vocabulary and numbers. Left out: bodies, numbers, names, places, media.
_KEPT = (
    "MessageStatus",
    "SmsStatus",
    "ErrorCode",
    "MessagingServiceSid",
    "NumSegments",
    "NumMedia",
    "OptOutType",
    "RawDlrDoneDate",
    "ApiVersion",
)
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_ERROR_CODE = re.compile(r"[1-9][0-9]{3,5}")
_NUMBER = re.compile(r"[0-9]{1,5}")
_NOT_IN_WORDS = re.compile(r"[\W_]+")
_MOST_FIELDS = 500
_FORM = "application/x-www-form-urlencoded"


class _Fields(dict[str, list[str]]):
    """A form's values by name, as Twilio's validator reads them."""

    def getlist(self, name: str) -> list[str]:
        """All values of a field."""
        return self[name]

    def first(self, *names: str) -> str:
        """The value of the first of these that is there and not empty; else empty."""
        return next((values[0] for name in names if (values := self.get(name)) and values[0]), "")


class TwilioCallbacks(CallbackSource):
    """Verifies and reads what Twilio posts, of one account."""

    name: ClassVar[str] = "twilio"

    def __init__(self, settings: Settings) -> None:
        """Keeps the account and its token.

        Raises:
            Refused: when one is missing.
        """
        for name in ("twilio_account_sid", "twilio_auth_token"):
            if not getattr(settings, name):
                raise Refused(name.upper(), "is not set")
        self._account = settings.twilio_account_sid
        self._validator = RequestValidator(settings.twilio_auth_token)

    async def verify(self, callback: Callback) -> None:
        """HMAC over address and form, or over an address that holds the body's hash; and the account is ours."""
        signature = callback.headers.get("x-twilio-signature", "")
        if not signature:
            raise NotVerified("signature is missing")
        try:
            signed: _Fields | str = _form(callback.body) if _is_form(callback) else callback.body.decode()
            is_right = any(self._is_signed(url, signed, signature) for url in callback.urls)
            fields = signed if isinstance(signed, _Fields) else _fields(callback)
        except (ValueError, Refused):
            raise NotVerified("body or address can't be read") from None
        if not is_right:
            raise NotVerified("signature does not match")
        if fields.get("AccountSid") != [self._account]:
            raise NotVerified("is of another account")

    def _is_signed(self, url: str, signed: _Fields | str, signature: str) -> bool:
        if isinstance(signed, str) and not parse_qs(urlsplit(url).query).get("bodySHA256"):
            return False  # only the address would be signed, so that any body would do
        return bool(self._validator.validate(url, signed, signature))

    async def parse_events(self, callback: Callback) -> list[ProviderEvent]:
        """One event, two where the person has opted out, none for a message to us without such a word."""
        fields = _fields(callback)
        sid = fields.first("MessageSid", "SmsSid", "SmsMessageSid")
        status = fields.first("MessageStatus", "SmsStatus")
        if not _WORD.fullmatch(sid):
            raise Refused("MessageSid", "is missing or odd")
        if not status:
            raise Refused("MessageStatus", "is missing")
        if status in _INBOUND:
            return _inbound(callback, fields, sid)
        return _outbound(callback, fields, sid, status)


def _outbound(callback: Callback, fields: _Fields, sid: str, status: str) -> list[ProviderEvent]:
    kind = _KINDS.get(status, EventKind.UNKNOWN)
    code, found = fields.first("ErrorCode"), _ids(callback)
    reason = code if _ERROR_CODE.fullmatch(code) else status if kind is EventKind.FAILED else None
    event = ProviderEvent(
        event_id=_event_id(sid, status, found),
        provider=TwilioCallbacks.name,
        channel=Channel.SMS,
        kind=kind,
        occurred_at=callback.received_at,
        provider_message_id=sid,
        raw=_raw(fields),
        **_known(reason=reason, **found),
    )
    person = _phone(fields.first("To"))
    if code != _OPTED_OUT or person is None:
        return [event]
    opted_out = {"event_id": f"{event.event_id}:optout", "kind": EventKind.UNSUBSCRIBED}
    return [event, event.model_copy(update={**opted_out, "address": person, "is_of_all": True})]


def _event_id(sid: str, status: str, found: Mapping[str, Any]) -> str:
    """A status comes once to a message. The attempt that it answers is part of it: no event of another can be this one,
    whatever ids a stand-in of Twilio gives out."""
    known = [TwilioCallbacks.name, sid, status if _WORD.fullmatch(status) else "?"]
    if found["delivery_id"] is not None:
        known.append(f"{found['delivery_id']}.{found['generation'] or 0}.{found['attempt'] or 1}")
    return ":".join(known)


def _inbound(callback: Callback, fields: _Fields, sid: str) -> list[ProviderEvent]:
    """A message to us: the person is who it is from. Its text is content, and is only compared with the words."""
    kind = _wish(fields.first("OptOutType"), fields.first("Body"))
    person = _phone(fields.first("From"))
    if kind is None or person is None:
        return []
    return [
        ProviderEvent(
            event_id=f"{TwilioCallbacks.name}:{sid}:received:optout",
            provider=TwilioCallbacks.name,
            channel=Channel.SMS,
            kind=kind,
            occurred_at=callback.received_at,
            address=person,
            is_of_all=True,
            reason="STOP" if kind is EventKind.UNSUBSCRIBED else "START",
            raw=_raw(fields),
        )
    ]


def _wish(opt_out_type: str, body: str) -> EventKind | None:
    """What a person wants: Twilio's word on it, else that of the message."""
    told = opt_out_type.strip().upper()
    if told in _BY_TYPE:
        return _BY_TYPE[told]
    words = [word for text in body[:200].upper().split() if (word := _NOT_IN_WORDS.sub("", text))]
    if not words:
        return None
    alone = words[0] if len(words) == 1 else "".join(words) if len(words) == 2 else ""
    if words[0] in _STOP_FIRST or alone in _STOP_ALONE or alone in _STOP_FIRST:
        return EventKind.UNSUBSCRIBED
    return EventKind.RESUBSCRIBED if alone in _START_ALONE else None


def _is_form(callback: Callback) -> bool:
    return callback.headers.get("content-type", _FORM).partition(";")[0].strip().lower() == _FORM


def _form(body: bytes) -> _Fields:
    """Empty values are kept: they are part of what is signed. Raises ValueError for what is no form."""
    fields = _Fields()
    for name, value in parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS):
        fields.setdefault(name, []).append(value)
    return fields


def _fields(callback: Callback) -> _Fields:
    """The fields of a form, or the plain ones of a JSON object.

    Raises:
        Refused: for what is neither.
    """
    try:
        if _is_form(callback):
            return _form(callback.body)
        told = orjson.loads(callback.body)
    except ValueError:
        raise Refused("body", "is neither a form nor JSON") from None
    if not isinstance(told, dict):
        raise Refused("body", "must be an object")
    return _Fields({name: [str(value)] for name, value in told.items() if isinstance(value, str | int)})


def _ids(callback: Callback) -> dict[str, Any]:
    """What we put into the address that Twilio was given; it is signed with the rest."""
    asked = parse_qs(urlsplit(callback.urls[0]).query) if callback.urls else {}
    return {
        "delivery_id": _uuid(asked.get("delivery_id", [""])[0]),
        "generation": _number(asked.get("generation", [""])[0], least=0),
        "attempt": _number(asked.get("attempt", [""])[0], least=1),
    }


def _known(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


def _number(text: str, *, least: int) -> int | None:
    return int(text) if _NUMBER.fullmatch(text) and least <= int(text) <= 32767 else None


def _phone(text: str) -> str | None:
    try:
        return normal_phone(text)
    except ValueError:
        return None


def _raw(fields: _Fields) -> dict[str, str]:
    return {name: value for name in _KEPT if _WORD.fullmatch(value := fields.first(name))}
