"""Writing in-app messages; reading them is `models.repositories.inbox`."""

from __future__ import annotations

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from models.deliveries import Delivery

_ADD = text(
    """
    INSERT INTO inbox (id, notification_id, user_id, category, title, body, action_url, image_url, created_at)
    VALUES (:id, :notification_id, :user_id, :category, :title, :body, :action_url, :image_url, now())
    ON CONFLICT (id) DO NOTHING
    """
)


async def add(connection: AsyncConnection, delivery: Delivery) -> bool:
    """Stores an in-app delivery once; True when it is new."""
    result = await connection.execute(
        _ADD,
        {
            "id": delivery.delivery_id,
            "notification_id": delivery.notification_id,
            "user_id": delivery.user_id,
            "category": delivery.category,
            "title": delivery.content.get("title", ""),
            "body": delivery.content.get("body", ""),
            "action_url": delivery.content.get("action_url"),
            "image_url": delivery.content.get("image_url"),
        },
    )
    return bool(result.rowcount)
