"""SES's events, in both of its forms: of configuration sets (`eventType`) and of identities (`notificationType`).

https://docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html
https://docs.aws.amazon.com/ses/latest/dg/notification-contents.html
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from email.utils import parseaddr
from typing import Any

from models.enums import Channel, EventKind
from models.provider_events import ProviderEvent
from streams.providers.event_fields import digest, event, moment, section, whose, word, words

PROVIDER = "ses"

#: By what SES calls it: what it means, and the object that tells more.
_KINDS = {
    "Send": (EventKind.ACCEPTED, "send"),
    "Delivery": (EventKind.DELIVERED, "delivery"),
    "DeliveryDelay": (EventKind.DEFERRED, "deliveryDelay"),
    "Bounce": (EventKind.BOUNCED, "bounce"),
    "Complaint": (EventKind.COMPLAINED, "complaint"),
    "Reject": (EventKind.FAILED, "reject"),
    "Rendering Failure": (EventKind.FAILED, "failure"),
    "Open": (EventKind.OPENED, "open"),
    "Click": (EventKind.CLICKED, "click"),
    "Subscription": (EventKind.UNKNOWN, "subscription"),
}
#: Where an event names those it is about; the others are about the message.
_RECIPIENTS = {
    "Delivery": "recipients",
    "DeliveryDelay": "delayedRecipients",
    "Bounce": "bouncedRecipients",
    "Complaint": "complainedRecipients",
}
#: They happen once to a message and recipient, whoever reports them: identity and configuration set may both do so.
_ONCE = frozenset({"Send", "Delivery", "Reject", "Rendering Failure"})
#: What is kept of an event. Left out: addresses, subjects, links, user agents, and texts that repeat them.
_KEPT = (
    "bounceType",
    "bounceSubType",
    "complaintSubType",
    "complaintFeedbackType",
    "delayType",
    "processingTimeMillis",
)
_KEPT_OF_RECIPIENT = ("action", "status")
_STATUS = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")
_LONGEST_ADDRESS = 320
_LONGEST_ID = 255


def ses_events(told: Mapping[str, Any], *, message_id: str, sent_at: datetime) -> list[ProviderEvent]:
    """One event for each recipient. `message_id` and `sent_at` are those of SNS's message."""
    name = told.get("eventType") or told.get("notificationType")
    name = name if isinstance(name, str) else ""
    kind, place = _KINDS.get(name, (EventKind.UNKNOWN, ""))
    mail, more = section(told, "mail"), section(told, place)
    common: dict[str, Any] = {
        "provider": PROVIDER,
        "channel": Channel.EMAIL,
        "occurred_at": moment(more.get("timestamp"), otherwise=sent_at),
        "provider_message_id": _mail_id(mail),
        **_ids(mail),
    }
    if name == "Subscription":
        kind, common["is_of_all"] = _subscription(more)
    if name == "Complaint" and more.get("complaintFeedbackType") == "not-spam":
        kind = EventKind.UNKNOWN  # somebody took a message out of the spam folder
    of_event = _event_key(name, mail, more, message_id)
    return [
        event(
            event_id=f"{PROVIDER}:{of_event}:{digest(of_event, address or '')}",
            kind=kind,
            address=address,
            is_permanent=kind is EventKind.BOUNCED and more.get("bounceType") == "Permanent",
            reason=_reason(name, more, recipient),
            raw={**words({"event": name}, ("event",)), **words(more, _KEPT), **words(recipient, _KEPT_OF_RECIPIENT)},
            **common,
        )
        for address, recipient in _recipients(name, mail, more)
    ]


def _ids(mail: Mapping[str, Any]) -> dict[str, Any]:
    """Of the tags; identities' notifications have none, but may have the original headers."""
    found = whose(section(mail, "tags"))
    headers = mail.get("headers")
    if "notification_id" not in found and isinstance(headers, list):
        values = [
            header.get("value")
            for header in headers
            if isinstance(header, dict) and str(header.get("name")).lower() == "x-notification-id"
        ]
        found |= whose({"notification_id": values})
    return found


def _mail_id(mail: Mapping[str, Any]) -> str | None:
    value = mail.get("messageId")
    return value if isinstance(value, str) and 0 < len(value) <= _LONGEST_ID else None


def _event_key(name: str, mail: Mapping[str, Any], more: Mapping[str, Any], message_id: str) -> str:
    """What a repeat of the event has in common with it."""
    feedback, mail_id = more.get("feedbackId"), _mail_id(mail)
    if isinstance(feedback, str) and 0 < len(feedback) <= _LONGEST_ID:
        # Unique by AWS's word; with the mail's own id beside it, nothing hangs on that.
        return feedback if mail_id is None else f"{digest(mail_id)}:{feedback}"
    if name in _ONCE and mail_id is not None:
        return f"{mail_id}:{name.lower().replace(' ', '-')}"
    return message_id


def _recipients(
    name: str, mail: Mapping[str, Any], more: Mapping[str, Any]
) -> list[tuple[str | None, Mapping[str, Any]]]:
    """Whom an event is about, each with what is said of them alone."""
    listed = more.get(_RECIPIENTS.get(name, ""))
    found: dict[str | None, Mapping[str, Any]] = {}
    for recipient in listed if isinstance(listed, list) else []:
        details = recipient if isinstance(recipient, dict) else {"emailAddress": recipient}
        found.setdefault(_address(details.get("emailAddress")), details)
    if found:
        return list(found.items())
    # An open or a click doesn't say whose of several recipients it was.
    everyone = mail.get("destination")
    only = everyone[0] if isinstance(everyone, list) and len(everyone) == 1 else None
    return [(_address(only), {})]


def _address(value: object) -> str | None:
    """Bare, as SES may write a name before it."""
    if not isinstance(value, str) or len(value) > _LONGEST_ADDRESS:
        return None
    address = parseaddr(value)[1]
    return address if "@" in address else None


def _reason(name: str, more: Mapping[str, Any], recipient: Mapping[str, Any]) -> str | None:
    status = recipient.get("status")
    if name in ("Bounce", "DeliveryDelay") and isinstance(status, str) and _STATUS.fullmatch(status):
        return status
    for field in ("bounceSubType", "complaintFeedbackType", "complaintSubType", "delayType", "reason"):
        if (said := word(more.get(field))) is not None:
            return said
    return "rendering failure" if name == "Rendering Failure" else None


def _subscription(more: Mapping[str, Any]) -> tuple[EventKind, bool]:
    """What somebody chose on SES's own page: everything, or topics."""
    new, old = section(more, "newTopicPreferences"), section(more, "oldTopicPreferences")
    if new.get("unsubscribeAll") is True:
        return EventKind.UNSUBSCRIBED, True
    if old.get("unsubscribeAll") is True:
        return EventKind.RESUBSCRIBED, True
    before, after = _topics(old), _topics(new)
    changed = {status for topic, status in after.items() if before.get(topic) != status}
    if "optout" in changed:
        return EventKind.UNSUBSCRIBED, False
    return (EventKind.RESUBSCRIBED if "optin" in changed else EventKind.UNKNOWN), False


def _topics(preferences: Mapping[str, Any]) -> dict[str, str]:
    listed = preferences.get("topicSubscriptionStatus")
    return {
        str(entry.get("topicName")): str(entry.get("subscriptionStatus")).lower()
        for entry in (listed if isinstance(listed, list) else [])
        if isinstance(entry, dict)
    }
