"""All tables. Importing this package fills the metadata that migrations compare with."""

from models.tables.audit_log import AuditEntry
from models.tables.bounces import BounceRecord
from models.tables.categories import NotificationCategory
from models.tables.category_pauses import CategoryPause, CategorySends
from models.tables.contacts import Contact, Device
from models.tables.dead_letter_replays import DeadLetterReplay
from models.tables.deliveries import NotificationDelivery
from models.tables.delivery_failures import DeliveryFailure
from models.tables.delivery_logs import DeliveryLog
from models.tables.inbox import InboxItem
from models.tables.notifications import Notification
from models.tables.outbox import NotificationSchedule, QueuedMessage
from models.tables.preferences import NotificationPreference
from models.tables.provider_events import StoredProviderEvent
from models.tables.queue_metrics import QueueMetric
from models.tables.rate_limit_buckets import RateLimitBucket
from models.tables.templates import NotificationTemplate
from models.tables.unsubscribes import Unsubscribe

__all__ = [
    "AuditEntry",
    "BounceRecord",
    "CategoryPause",
    "CategorySends",
    "Contact",
    "DeadLetterReplay",
    "DeliveryFailure",
    "DeliveryLog",
    "Device",
    "InboxItem",
    "Notification",
    "NotificationCategory",
    "NotificationDelivery",
    "NotificationPreference",
    "NotificationSchedule",
    "NotificationTemplate",
    "QueueMetric",
    "QueuedMessage",
    "RateLimitBucket",
    "StoredProviderEvent",
    "Unsubscribe",
]
