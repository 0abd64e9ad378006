"""What providers tell: signed callbacks, from their servers to ours. The signature is the only key to this door."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

import structlog
from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from api import metrics
from api.bodies import read_raw
from api.dependencies import services_of
from api.documents import operation
from api.errors import Problem, unavailable
from api.services import root_path
from models.errors import Refused, Unavailable
from models.settings import Settings
from streams.clock import now
from streams.errors import is_passing
from streams.providers.callbacks import Callback, NotVerified, Stale
from streams.records import Headers

log = structlog.get_logger()
router = APIRouter(prefix="/api/v1/webhooks", tags=["webhooks"])

#: SendGrid's batches come closest: up to 768 KB of compressed events, as it says.
MAX_CALLBACK_BYTES = 2 * 1024 * 1024
#: https://www.w3.org/TR/trace-context/#traceparent-header
_TRACEPARENT = re.compile(r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")

_SENDGRID = [
    {
        "email": "ada@example.com",
        "timestamp": 1790000000,
        "event": "delivered",
        "sg_event_id": "ZGVsaXZlcmVkLTAtMTIzNDU2Nzg5",
        "sg_message_id": "14c5d75ce93.dfd.64b469.filter0001.16648.5515E0B88.0",
        "delivery_id": "5f0c6f7e-2a3b-5c4d-8e9f-0a1b2c3d4e52",
        "notification_id": "019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071",
    }
]
_TWILIO = (
    "MessageSid=SMaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa&MessageStatus=delivered"
    "&AccountSid=AC00000000000000000000000000000000"
)
_SNS = (
    '{"Type": "Notification", "MessageId": "22b80b92-fdea-4c2c-8f9d-000000000083", '
    '"TopicArn": "arn:aws:sns:us-east-1:123456789012:ses-events", "Message": "…", '
    '"Timestamp": "2026-09-21T14:13:20.000Z", "SignatureVersion": "2", "SigningCertURL": "…", "Signature": "…"}'
)


def _described() -> dict[str, Any]:
    made = operation(
        "Take a provider's callback",
        "For the servers of SendGrid, Twilio and AWS: no token, but each vendor's own signature over the body, and for "
        "Twilio over the address. 204: all events of the body are durable and will be told of on "
        "`notification.status`; a repeat is a 204 without effect. What is forged, or signed for another account, is a "
        "403 (`not_verified`); so is what was signed too long ago, where the vendor signs a time (`stale`). 404: the "
        "vendor's key is not set here. 503: come again; vendors do. A body has at most 2 MiB.",
        answer=None,
        status=204,
        errors=["not_verified", "stale", "not_found", "timeout", "too_large", "invalid"],
        open_to_all=True,
    )
    made["openapi_extra"]["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {
                "schema": {"type": "array", "items": {"type": "object"}, "description": "SendGrid's events."},
                "example": _SENDGRID,
            },
            "application/x-www-form-urlencoded": {
                "schema": {"type": "string", "description": "Twilio's fields."},
                "example": _TWILIO,
            },
            "text/plain": {
                "schema": {"type": "string", "description": "A message of AWS SNS, as JSON."},
                "example": _SNS,
            },
        },
    }
    made["openapi_extra"]["parameters"] = [
        {
            "name": "name",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "enum": list(metrics.CALLBACK_PROVIDERS)},
            "example": "sendgrid",
        }
    ]
    return made


@router.post("/{name}", **_described())
async def take(request: Request) -> Response:
    name = request.path_params["name"]
    services = services_of(request)
    with _told(name):
        if name not in services.callbacks:
            raise Problem("not_found", "Callbacks of this provider are not configured.")
        body = await read_raw(request, most_bytes=MAX_CALLBACK_BYTES)
        taken = await services.callbacks.take(
            name, _callback(request, body, services.settings), headers=_carried(request)
        )
    metrics.callback(name, "accepted" if taken.events or not taken.repeats else "repeated")
    metrics.callback_events(name, taken=taken.events, repeated=taken.repeats)
    return Response(status_code=204)


@contextlib.contextmanager
def _told(name: str) -> Iterator[None]:
    """Counts what was refused, and says to the caller and in the log why: never what was in it."""
    try:
        yield
    except NotVerified as error:
        kind = "stale" if isinstance(error, Stale) else "not_verified"
        metrics.callback(name, kind)
        log.warning("callback refused", provider=name, kind=kind, reason=error.reason)
        raise Problem(kind, f"{error.reason}.") from None
    except Refused as error:
        metrics.callback(name, "invalid")
        log.warning("callback refused", provider=name, kind="invalid", field=error.field, reason=error.reason)
        raise
    except Problem as problem:
        metrics.callback(name, problem.kind)
        raise
    except ClientDisconnect:
        raise
    except Exception as error:
        if not is_passing(error):
            metrics.callback(name, "internal")
            raise
        metrics.callback(name, "unavailable")
        where = error.dependency if isinstance(error, Unavailable) else "storage"
        log.warning("callback put off", provider=name, server=where, error=type(error).__name__)
        raise unavailable(f"{where}: does not answer now; send it again") from None


def _callback(request: Request, body: bytes, settings: Settings) -> Callback:
    return Callback(urls=_addresses(request, settings), headers=_headers(request), body=body, received_at=now())


def _headers(request: Request) -> dict[str, str]:
    """By name in lower case; what comes twice is one list, as in RFC 9110: no signature fits it."""
    found: dict[str, str] = {}
    for name, value in request.headers.items():
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def _addresses(request: Request, settings: Settings) -> list[str]:
    """Where it may have been sent to: what the world calls us, and what this request does.

    The latter is the caller's own word, and proves nothing: Twilio signs with a key of our account, and only for
    addresses that our account has named.
    """
    path = f"/api/v1/webhooks/{request.path_params['name']}"
    query = request.scope["query_string"].decode("latin-1")
    behind = f"{path}?{query}" if query else path
    asked = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
    prefix = root_path(settings)
    bases = (settings.public_url.rstrip("/"), asked)
    return list(dict.fromkeys(base + between + behind for base in bases for between in ("", prefix)))


def _carried(request: Request) -> Headers:
    trace = request.headers.get("traceparent", "")
    return (("traceparent", trace.encode()),) if _TRACEPARENT.match(trace) else ()
