"""The closed vocabularies of the service: channels, priorities, statuses, outcomes."""

from __future__ import annotations

from enum import StrEnum


class Channel(StrEnum):
    """A way to reach a person."""

    EMAIL = "email"
    SMS = "sms"
    PUSH = "push"
    IN_APP = "in_app"


class Priority(StrEnum):
    """Which lane a notification takes; a flood in one never holds up another."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class Role(StrEnum):
    """What the identity service says a caller is."""

    #: own notifications, inbox, preferences and contact
    USER = "user"
    #: sends, reads any status, manages contacts
    SERVICE = "service"
    #: everything
    ADMIN = "admin"


class Status(StrEnum):
    """Where a notification or a delivery stands. `models.status` says what may follow what."""

    #: stored, not yet taken up by a request lane
    ACCEPTED = "accepted"
    #: waits for its `send_at`
    SCHEDULED = "scheduled"
    #: rendered and acknowledged on its channel topic
    QUEUED = "queued"
    #: delayed once to the next free slot of a limit
    THROTTLED = "throttled"
    #: an attempt failed for now; the next one waits on a delay topic
    RETRYING = "retrying"
    #: an attempt is claimed and has no outcome yet
    SENDING = "sending"
    #: the provider took it
    SENT = "sent"
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    #: terminal; its record is in the dead letters
    FAILED = "failed"
    #: opted out, unsubscribed, or the address is dead
    SUPPRESSED = "suppressed"
    #: past `expires_at` before it was sent
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    #: after `sent`: the mail came back
    BOUNCED = "bounced"
    #: after `sent`: the recipient called it spam
    COMPLAINED = "complained"


class Outcome(StrEnum):
    """How one attempt at a provider ended; decided by a table per vendor."""

    #: the provider took the message
    SENT = "sent"
    #: failed for now: again later
    RETRY = "retry"
    #: this message will never be taken
    PERMANENT = "permanent"
    #: the address or device is dead: suppress it
    TARGET_DEAD = "target_dead"
    #: the account is refused (401, suspended): burns no try
    BROKEN = "broken"
    #: timed out after the request was written: it may have been sent
    AMBIGUOUS = "ambiguous"


class EventKind(StrEnum):
    """What a provider tells of a message, or of an address, after it took it."""

    #: processed, queued, handed to a carrier: nothing that `sent` didn't say
    ACCEPTED = "accepted"
    #: tried, and tried again later by the vendor
    DEFERRED = "deferred"
    DELIVERED = "delivered"
    OPENED = "opened"
    CLICKED = "clicked"
    #: came back; `is_permanent` tells hard from soft
    BOUNCED = "bounced"
    COMPLAINED = "complained"
    #: refused by the vendor or a carrier after it was taken
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: the person wants nothing of this category, or nothing at all
    UNSUBSCRIBED = "unsubscribed"
    RESUBSCRIBED = "resubscribed"
    #: anything else; kept, without effect
    UNKNOWN = "unknown"


class Stage(StrEnum):
    """Where in the flow a record was when it was dead-lettered."""

    REQUEST = "request"
    DELIVERY = "delivery"
    DELAY = "delay"
    CONTACT = "contact"
    PROVIDER_EVENT = "provider_event"


class SuppressionReason(StrEnum):
    """Why an address is written to no more. The last by name is the only one that transactional mail may ignore."""

    #: the address is dead: a hard bounce, or too many soft ones
    BOUNCED = "bounced"
    #: the recipient called a message spam
    COMPLAINED = "complained"
    #: put there by a person or another service
    MANUAL = "manual"
    #: told the carrier or the vendor to stop (STOP to an SMS)
    OPTED_OUT = "opted_out"
    #: wants nothing of a category, or of any: transactional categories are exempt
    UNSUBSCRIBED = "unsubscribed"
