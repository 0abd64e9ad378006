"""Bodies of answers. They are written by hand, so these models are here for the documentation."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, Field

from api.schemas import QuietHours
from models.enums import Channel, Priority, Status
from models.limits import Scope
from streams.queues import QueueState

#: The parts of one channel by name; `data` of a push message by its own names.
Parts = dict[str, str | dict[str, str]]


class TemplateView(BaseModel):
    """One version of a template in one locale."""

    key: str
    locale: str
    version: int
    category: str | None
    variables: list[str]
    channels: dict[Channel, Parts]
    draft: bool
    created_by: str
    created_at: datetime
    published_at: datetime | None


class TemplateWithLocales(TemplateView):
    """A template and the locales it has."""

    locales: list[str]


class PreviewView(BaseModel):
    """The rendered parts of each channel."""

    channels: dict[Channel, Parts]


class ContactView(BaseModel):
    """A person's contact; what is not known is absent."""

    user_id: str
    email: str | None = None
    phone: str | None = None
    name: str | None = None
    locale: str | None = None
    timezone: str | None = None
    updated_at: datetime


class DeviceView(BaseModel):
    """A device of a person."""

    device_id: UUID
    platform: Literal["fcm", "apns"]
    token: str
    kind: str | None = None
    registered_at: datetime


class PreferencesView(BaseModel):
    """Only what the person chose; everything else is on."""

    user_id: str
    channels: dict[Channel, bool]
    categories: dict[str, dict[Channel, bool]]
    quiet_hours: QuietHours | None = None
    updated_at: datetime | None = None


class CategoryPauseView(BaseModel):
    """Why the bulk of a category is held back on one channel."""

    channel: Channel
    since: datetime
    sent: int
    bounced: int


class CategoryView(BaseModel):
    """A category."""

    key: str
    transactional: bool
    default_channels: list[Channel]
    priority: Priority | None = None
    quiet_hours: Literal["defer", "drop", "ignore"]
    created_at: datetime
    updated_at: datetime
    paused: list[CategoryPauseView] | None = Field(default=None, description="Its bulk is held back.")


class AcceptedView(BaseModel):
    """A request that will end in a final state."""

    notification_id: UUID
    status: Status
    status_url: str


class DeliveryView(BaseModel):
    """A notification on one channel."""

    delivery_id: UUID
    channel: Channel
    status: Status
    reason: str | None = None
    provider: str | None = None
    provider_message_id: str | None = None
    attempts: int
    ambiguous: Annotated[
        bool | None, Field(description="An attempt's outcome is unknown: the person may have got it twice.")
    ] = None
    segments: Annotated[int | None, Field(description="What an SMS takes, as carriers count and charge it.")] = None
    updated_at: datetime


class TimelineEntry(BaseModel):
    """One thing that happened."""

    at: datetime
    channel: Channel | None = None
    event: str
    detail: str | None = None


class NotificationSummary(BaseModel):
    """A notification in a list."""

    notification_id: UUID
    user_id: str
    status: Status
    reason: str | None = None
    category: str
    priority: Priority
    created_at: datetime
    updated_at: datetime
    metadata: dict[str, str]


class NotificationView(NotificationSummary):
    """A notification with its deliveries and what happened so far, the oldest first."""

    send_at: datetime | None = None
    expires_at: datetime | None = None
    deliveries: list[DeliveryView]
    timeline: list[TimelineEntry]


class CancelledView(BaseModel):
    """What is left after a cancellation."""

    notification_id: UUID
    status: Status


class InboxMessageView(BaseModel):
    """An in-app message."""

    id: UUID
    notification_id: UUID
    category: str
    title: str
    body: str
    action_url: str | None = None
    image_url: str | None = None
    created_at: datetime
    read_at: datetime | None = None


class UnreadView(BaseModel):
    """How many messages are unread."""

    unread: int


class ReadView(BaseModel):
    """A message that was read."""

    id: UUID
    read_at: datetime


class ReadAllView(BaseModel):
    """How many messages this call marked."""

    marked: int


class QueueView(BaseModel):
    """A queue at one moment."""

    lane: str
    topic: Annotated[str | None, Field(description="Without prefix; absent for the tables of waiting records.")] = None
    sampled_at: datetime
    state: QueueState
    lag: Annotated[int, Field(description="Records, or rows, that wait. In the dead letters: what is kept.")]
    in_per_second: Annotated[float | None, Field(description="Since the sample before; absent in the first.")] = None
    out_per_second: float | None = None
    oldest_age_seconds: Annotated[
        float | None, Field(description="How long the first record that is not done has waited.")
    ] = None
    members: Annotated[int | None, Field(description="Processes that read it, where it is read.")] = None


class ServerState(BaseModel):
    """Whether a server answers, and what is missing where it doesn't."""

    ok: bool
    missing: str | None = None


class BucketView(BaseModel):
    """How full a shared bucket is; as it was sampled last where Redis doesn't answer."""

    tokens: float
    at: datetime
    source: Literal["redis", "sample"]
    held_seconds: Annotated[
        float | None, Field(description="The provider asked to be left alone for so long (Retry-After).")
    ] = None


class RateLimitView(BaseModel):
    """A limit. In any t seconds no more than burst + t x permits / per_seconds pass."""

    scope: Scope
    target: str
    permits: int
    per_seconds: int
    burst: int
    created_at: datetime
    updated_at: datetime
    bucket: Annotated[
        BucketView | None, Field(description="Of channels and providers; people have one bucket each.")
    ] = None


class ProviderLimitView(BaseModel):
    """The limit on a provider."""

    permits: int
    per_seconds: int
    burst: int
    tokens: Annotated[float | None, Field(description="In the bucket, when it was sampled last.")] = None


class ProviderStateView(BaseModel):
    """A provider of a channel's chain, as the workers see it."""

    channel: Channel
    provider: str
    place: Annotated[
        int | None, Field(description="In the fail-over chain, from 1; absent where only a worker has it.")
    ] = None
    state: Annotated[
        str,
        Field(
            description="The worst that any worker sees: `closed` (all is well), `degraded`, `throttled`, "
            "`unreachable`, `broken`; `unknown` where no worker says anything."
        ),
    ]
    detail: Annotated[str | None, Field(description="The vendor's own word for the trouble.")] = None
    since: datetime | None = None
    until: Annotated[datetime | None, Field(description="When it is tried again.")] = None
    weight: Annotated[float | None, Field(description="Where traffic is shared by weights; 0: only fail-over.")] = None
    share: Annotated[float | None, Field(description="The part of the channel's calls that it gets now.")] = None
    workers: Annotated[int, Field(description="How many workers told something of it in the last seconds.")]
    workers_in_state: Annotated[int, Field(description="How many of them see this state.")]
    limit: Annotated[ProviderLimitView | None, Field(description="Absent where none is set.")] = None


class ReadyView(BaseModel):
    """What the service needs, each by name."""

    status: Literal["ready", "not ready"]
    kafka: ServerState
    postgres: ServerState
    redis: ServerState
    providers: Annotated[
        dict[Channel, dict[str, str]],
        Field(description="By channel, the state of each provider; as in `GET /api/v1/providers`."),
    ]


class HealthView(BaseModel):
    """The process lives."""

    status: Literal["ok"]


class FieldErrorView(BaseModel):
    """What is wrong with one field."""

    field: str
    reason: str


class ProblemView(BaseModel):
    """RFC 9457, with the fields that are wrong and the id to quote to the operators."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    errors: list[FieldErrorView] | None = None
    request_id: str | None = None
    notification_id: UUID | None = None
