"""Sending notifications, and taking them back."""

from __future__ import annotations

import re

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api import headers, metrics
from api.bodies import read
from api.dependencies import PathId, Service, needs, services_of
from api.documents import operation
from api.errors import FieldError, Problem, invalid
from api.responses import reply
from api.services import root_path
from api.status_events import cancelled_events
from api.views import AcceptedView, CancelledView
from models.enums import Role, Status
from models.repositories import cancellation, outbox
from models.requests import NotificationRequest
from streams.intake import waiting
from streams.records import Headers

router = APIRouter(prefix="/api/v1/notifications", tags=["notifications"])

#: https://www.rfc-editor.org/rfc/rfc9110#section-5.5: what a header can hold; blanks at its ends are not part of it.
_PRINTABLE = re.compile(rb"^[\x20-\x7e]{1,255}$")
#: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(rb"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")

_sender = needs(Role.SERVICE)

_ID = "019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071"
_REQUEST = {
    "user_id": "user-42",
    "channels": ["email", "in_app"],
    "template_id": "order-shipped",
    "data": {"name": "Ada", "order": {"id": 4711}},
    "category": "orders",
    "recipient": {"email": "ada@example.com"},
}
_KEY_HEADER = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "At most 255 printable ASCII characters; the same as `idempotency_key` in the body.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    "example": "order-4711-shipped",
}


@router.post(
    "",
    **operation(
        "Send a notification",
        "202 means: stored, and it will end in a final state, whatever fails in between. A repeat with the same `id` "
        "or idempotency key gives the same answer with the status of that moment and sends nothing again; the same id "
        "with another body is a 422 (`conflict`). What can be known now is checked now: the template, its variables, "
        "the rules of inline content. A 503 tells the id; its outcome is unknown, so repeat it with the same key.",
        takes=NotificationRequest,
        takes_example=_REQUEST,
        answer=AcceptedView,
        example={"notification_id": _ID, "status": "accepted", "status_url": f"/api/v1/notifications/{_ID}"},
        status=202,
        errors=["conflict"],
        headers=[_KEY_HEADER],
    ),
)
async def send(request: Request) -> Response:
    # Called, not depended on: this is the one operation where the framework's resolving counts.
    caller = await _sender(request)
    services = services_of(request)
    asked = _keyed(await read(request, NotificationRequest), request)
    priority = await services.checks.check(asked)
    accepted = await services.intake.accept(asked, client=caller.user_id, priority=priority, headers=_carried(request))
    metrics.accepted(priority, in_outbox=accepted.queued_in_outbox, is_marked=accepted.is_marked)
    url = f"{root_path(services.settings)}/api/v1/notifications/{accepted.notification_id}"
    return reply(
        {"notification_id": accepted.notification_id, "status": accepted.status, "status_url": url},
        status=202,
        headers={"Location": url},
    )


@router.post(
    "/{notification_id}/cancel",
    **operation(
        "Cancel a notification",
        "200: nothing of it was sent and nothing will be; also before the request itself has come, and again. 409 "
        "(`too_late`): some of it was sent, is at its provider now, or it has ended otherwise.",
        answer=CancelledView,
        example={"notification_id": _ID, "status": "cancelled"},
        errors=["too_late", "not_found"],
    ),
)
async def cancel(notification_id: PathId, request: Request, caller: Service) -> Response:
    async with services_of(request).engine.begin() as connection:
        outcome = await cancellation.cancel(connection, notification_id, client=caller.user_id)
        events = cancelled_events(notification_id, outcome)
        if events:
            await outbox.queue(connection, [waiting(event) for event in events])
    if outcome.too_late:
        raise Problem("too_late", f"It is {outcome.status}, or an attempt is being made.")
    return reply({"notification_id": notification_id, "status": Status.CANCELLED})


def _keyed(asked: NotificationRequest, request: Request) -> NotificationRequest:
    """The request with its idempotency key, from wherever it came.

    Raises:
        Problem: when header and body name different ones, or the header holds none.
    """
    keys = headers.values(request, b"idempotency-key")
    if not keys:
        return asked
    if len(keys) > 1 or _PRINTABLE.match(keys[0]) is None:
        raise invalid([FieldError("Idempotency-Key", "must be one key of 1 to 255 printable ASCII characters")])
    key = keys[0].decode()
    if asked.idempotency_key is None:
        return asked.model_copy(update={"idempotency_key": key})
    if asked.idempotency_key != key:
        raise invalid([FieldError("idempotency_key", "differs from the header Idempotency-Key")])
    return asked


def _carried(request: Request) -> Headers:
    """The trace that the caller is in, for the records this causes."""
    for value in headers.values(request, b"traceparent"):
        if _TRACEPARENT.match(value):
            return (("traceparent", value),)
    return ()
