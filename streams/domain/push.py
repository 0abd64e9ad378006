"""What a push message carries, on either platform. Pure.

A message with a title or a body is shown by the device; one without both is data for the app, which nobody sees.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import orjson

from models.deliveries import Delivery
from models.errors import Refused
from models.requests import Device, PushOptions

#: https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification
#: https://firebase.google.com/docs/cloud-messaging/customize-messages/set-message-type
MAX_PAYLOAD_BYTES = 4096
#: FCM keeps nothing longer, and APNs no longer than 30 days.
MAX_TTL_SECONDS = 28 * 86400

#: Of one message; a person has no more.
MAX_DEVICES = 50
#: Parts of content that a push message could show.
_TEXTS = ("title", "body", "subject", "text")

#: What neither vendor lets an app's data be called.
#: https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages#Message.FIELDS.data
_RESERVED = frozenset({"from", "message_type", "aps"})
_RESERVED_PREFIXES = ("google.", "gcm.")

#: Rendered parts that begin so are the template's data.
DATA_PREFIX = "data."


def is_data_only(content: Mapping[str, str]) -> bool:
    """Whether nothing of it is shown."""
    return not content.get("title") and not content.get("body")


def is_asked_silent(options: PushOptions | None, content: Mapping[str, str]) -> bool:
    """Whether a request is for data alone: it has some, and no text that could be shown."""
    return bool(options is not None and options.data) and not any(content.get(part) for part in _TEXTS)


def distinct(devices: Sequence[Device]) -> tuple[Device, ...]:
    """Each device once, and no more than one message goes to."""
    return tuple({(device.platform, device.token): device for device in devices}.values())[:MAX_DEVICES]


def is_reserved(name: str) -> bool:
    """Whether an app's data may not be called so."""
    return name.lower() in _RESERVED or name.lower().startswith(_RESERVED_PREFIXES)


def app_data(delivery: Delivery) -> dict[str, str]:
    """What the app gets beside the text: the template's data, the request's, the links, and what it is part of.

    Raises:
        Refused: for a name that a vendor keeps for itself.
    """
    content, options = delivery.content, delivery.options.push
    data = {name.removeprefix(DATA_PREFIX): value for name, value in content.items() if name.startswith(DATA_PREFIX)}
    data |= (options.data if options is not None else None) or {}
    if any(is_reserved(name) for name in data):
        raise Refused("options.push.data", "has a name that is reserved")
    data |= {name: content[name] for name in ("action_url", "image_url") if content.get(name)}
    data["delivery_id"] = str(delivery.delivery_id)
    data["notification_id"] = str(delivery.notification_id)
    return data


def ttl_seconds(delivery: Delivery, now: datetime) -> int | None:
    """How long a vendor keeps it for a device that is off; None: as long as it likes."""
    known = []
    if delivery.options.push is not None and delivery.options.push.ttl_seconds is not None:
        known.append(delivery.options.push.ttl_seconds)
    if delivery.expires_at is not None:
        known.append(max(0, int((delivery.expires_at - now).total_seconds())))
    return min(*known, MAX_TTL_SECONDS) if known else None


def badge(delivery: Delivery) -> int | None:
    """The number on the app's icon; None leaves it as it is."""
    return delivery.options.push.badge if delivery.options.push is not None else None


def web_link(content: Mapping[str, str], name: str) -> str | None:
    """A link as a vendor takes it: not one within the app, which only the app understands."""
    value = content.get(name, "")
    return value if value.startswith(("https://", "http://")) else None


def apns_payload(delivery: Delivery) -> dict[str, Any]:
    """The JSON that a device with iOS or macOS gets.

    https://developer.apple.com/documentation/usernotifications/generating-a-remote-notification

    Raises:
        Refused: for data with a reserved name.
    """
    content = delivery.content
    aps: dict[str, Any] = {}
    if is_data_only(content):
        aps["content-available"] = 1
    else:
        aps["alert"] = {part: content[part] for part in ("title", "body") if content.get(part)}
        aps["sound"] = "default"
        if content.get("image_url"):
            aps["mutable-content"] = 1  # an extension of the app fetches it
    if (number := badge(delivery)) is not None:
        aps["badge"] = number
    return {**app_data(delivery), "aps": aps}


def fcm_counted(delivery: Delivery) -> dict[str, Any]:
    """The parts of a message that FCM's limit is about.

    Raises:
        Refused: for data with a reserved name.
    """
    shown = {part: delivery.content[part] for part in ("title", "body") if delivery.content.get(part)}
    return {"data": app_data(delivery), "notification": shown}


def is_too_large(payload: Mapping[str, Any]) -> bool:
    """Whether a vendor would refuse it for its size."""
    return len(orjson.dumps(payload)) > MAX_PAYLOAD_BYTES


def fits_nobody(delivery: Delivery) -> bool:
    """Whether it is too large for each of its devices, so that it need not be tried.

    Raises:
        Refused: for data with a reserved name.
    """
    made = {"fcm": fcm_counted, "apns": apns_payload}
    platforms = {device.platform for device in delivery.devices}
    return bool(platforms) and all(is_too_large(made[platform](delivery)) for platform in platforms)
