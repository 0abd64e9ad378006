"""In-app: a row in the inbox, and a word to whoever is connected. No vendor, so `options.provider` is not for it.

The row is the delivery; it is unique by delivery id, so a second call adds nothing. The announcement is a courtesy: a
client that misses it finds the message in its inbox.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, Protocol

import structlog
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from models.deliveries import Delivery
from models.enums import Channel, Outcome
from models.errors import Unavailable
from streams.providers.base import DeliveryResult, NotificationProvider, Reach

log = structlog.get_logger()

_ANNOUNCE_SECONDS = 1.0
_PARTS = ("title", "body", "action_url", "image_url")


class Inbox(Protocol):
    """Where in-app messages are kept."""

    async def add(self, delivery: Delivery) -> bool:
        """Stores the delivery once; True when it is new."""
        ...


class Announcer(Protocol):
    """Tells a user's connected clients."""

    async def announce(self, user_id: str, message: dict[str, Any]) -> None:
        """Publishes; who isn't connected doesn't get it."""
        ...


class InAppProvider(NotificationProvider):
    """Puts messages into this service's own inbox."""

    name: ClassVar[str] = "in_app"
    channel: ClassVar[Channel] = Channel.IN_APP

    def __init__(self, *, inbox: Inbox, announcer: Announcer) -> None:
        self._inbox = inbox
        self._announcer = announcer

    async def send(self, delivery: Delivery) -> DeliveryResult:
        """Stores, then announces: also what was stored before, as a process may have died between the two."""
        try:
            await self._inbox.add(delivery)
        except (DataError, IntegrityError):
            return _result(Outcome.PERMANENT, "database refused")
        except (Unavailable, OSError, DBAPIError, PoolTimeout):
            return _result(Outcome.RETRY, "database unreachable", reach=Reach.AWAY)
        await self._announce(delivery)
        return _result(Outcome.SENT, None, message_id=str(delivery.delivery_id))

    async def _announce(self, delivery: Delivery) -> None:
        try:
            async with asyncio.timeout(_ANNOUNCE_SECONDS):
                await self._announcer.announce(delivery.user_id, announcement(delivery))
        except Exception as error:  # whatever Redis says: the message is in the inbox
            log.warning("inbox_announcement_failed", delivery_id=str(delivery.delivery_id), error=type(error).__name__)


def announcement(delivery: Delivery) -> dict[str, Any]:
    """The `notification` frame of the WebSocket; its id tells clients a repeat."""
    return {
        "type": "notification",
        "id": str(delivery.delivery_id),
        "notification_id": str(delivery.notification_id),
        "category": delivery.category,
        "created_at": delivery.created_at.isoformat(),
        **{part: delivery.content[part] for part in _PARTS if part in delivery.content},
    }


def _result(
    outcome: Outcome, reason: str | None, *, message_id: str | None = None, reach: Reach = Reach.ANSWERED
) -> DeliveryResult:
    return DeliveryResult(
        outcome=outcome,
        provider=InAppProvider.name,
        reason=reason,
        provider_message_id=message_id,
        reach=reach,
    )
