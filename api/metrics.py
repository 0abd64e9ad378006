"""What the API counts. Labels are few: route templates, never paths; no person, no address."""

from __future__ import annotations

from functools import lru_cache

from prometheus_client import Counter, Histogram

from models.enums import Priority

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
_METHODS = frozenset({"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS"})

REQUESTS = Counter("comms_http_requests_total", "Requests by route and status.", ["method", "route", "status"])
SECONDS = Histogram("comms_http_request_seconds", "Time to answer.", ["method", "route"], buckets=_SECONDS)
ACCEPTED = Counter("comms_http_accepted_total", "Notifications answered with 202.", ["priority"])
OUTBOX = Counter("comms_http_outbox_total", "Accepted notifications that went to the outbox: Kafka was away or slow.")
MARKED = Counter("comms_http_marked_total", "Accepted notifications that Redis has a marker of: Postgres was away.")
_ACCEPTED = {priority: ACCEPTED.labels(priority) for priority in Priority}
CALLBACKS = Counter("comms_http_callbacks_total", "Providers' callbacks by result.", ["provider", "result"])
CALLBACK_EVENTS = Counter(
    "comms_http_callback_events_total",
    "Events of providers' callbacks, taken or known already.",
    ["provider", "result"],
)
CALLBACK_PROVIDERS = ("sendgrid", "ses", "twilio", "sns")


@lru_cache(maxsize=2000)
def _children(method: str, route: str, status: int) -> tuple[Counter, Histogram]:
    return REQUESTS.labels(method, route, str(status)), SECONDS.labels(method, route)


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Counts one answered request."""
    counter, histogram = _children(method if method in _METHODS else "other", route, status)
    counter.inc()
    histogram.observe(seconds)


def accepted(priority: Priority, *, in_outbox: bool, is_marked: bool) -> None:
    """Counts one notification that was answered with 202."""
    _ACCEPTED[priority].inc()
    if in_outbox:
        OUTBOX.inc()
    if is_marked:
        MARKED.inc()


def callback(provider: str, result: str) -> None:
    """Counts one callback. A path may name anything, a label only what there is."""
    CALLBACKS.labels(provider if provider in CALLBACK_PROVIDERS else "other", result).inc()


def callback_events(provider: str, *, taken: int, repeated: int) -> None:
    """Counts the events of one verified callback."""
    CALLBACK_EVENTS.labels(provider, "taken").inc(taken)
    CALLBACK_EVENTS.labels(provider, "repeated").inc(repeated)
