"""The link in each e-mail that can be ended: RFC 8058 for mail programs, a page for people. No token, no cookie."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import structlog
from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read_raw
from api.dependencies import services_of
from api.documents import operation
from api.errors import not_found
from api.unsubscribe_page import Page, page
from models.enums import SuppressionReason
from models.suppressions import Source, Suppression
from streams.clock import now
from streams.domain.unsubscribe import Leaving, UnsubscribeLinks
from streams.suppression import lift, suppress

log = structlog.get_logger()
router = APIRouter(prefix="/api/v1/unsubscribe", tags=["unsubscribe"])

#: `List-Unsubscribe=One-Click`, alone or as multipart.
_MOST_BYTES = 4096
_HTML = '<!doctype html><html lang="en">…</html>'


def _described(summary: str, description: str, *, errors: tuple[str, ...] = ()) -> dict[str, Any]:
    made = operation(summary, description, answer=None, open_to_all=True, errors=("not_found", *errors))
    content = {"text/html": {"schema": {"type": "string"}, "example": _HTML}}
    made["responses"][200] = {"description": "A page for people.", "content": content}
    return made


_ASK = _described(
    "Ask before unsubscribing",
    "A page with one button. It changes nothing, so that programs which follow links, and browsers which load them in "
    "advance, unsubscribe nobody. The words are in a language of `Accept-Language`: ar, de, en, es or fr.",
)
_LEAVE = _described(
    "Unsubscribe with one click",
    "What a mail program posts by RFC 8058, and the button of the page: from now on nothing of the message's category "
    "goes to its address, also nothing that is queued already; transactional categories are exempt. Repeats do no "
    "harm. With `action=resubscribe` it is taken back.",
    errors=("malformed", "timeout", "too_large"),
)
_LEAVE["openapi_extra"] = {
    "requestBody": {
        "required": False,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "List-Unsubscribe": {"type": "string", "const": "One-Click"},
                        "action": {"type": "string", "const": "resubscribe"},
                    },
                },
                "example": {"List-Unsubscribe": "One-Click"},
            }
        },
    }
}


@router.get("/{token}", **_ASK)
@router.head("/{token}", include_in_schema=False)
async def ask(token: str, request: Request) -> Response:
    leaving = _read(request, token)
    return _unknown(request) if leaving is None else _page(request, Page.ASK, leaving)


@router.post("/{token}", **_LEAVE)
async def leave(token: str, request: Request) -> Response:
    leaving = _read(request, token)
    if leaving is None:
        return _unknown(request)
    comes_back = await _wants_back(request)
    entry = Suppression(
        channel=leaving.channel,
        address=leaving.address,
        category=leaving.category,
        reason=SuppressionReason.UNSUBSCRIBED,
        created_at=now(),
        source=Source.LINK,
    )
    async with services_of(request).engine.begin() as connection:
        await (lift if comes_back else suppress)(connection, [entry])
    word = "subscribed again" if comes_back else "unsubscribed"
    log.info(word, channel=leaving.channel, category=leaving.category, notification_id=leaving.notification_id)
    return _page(request, Page.BACK if comes_back else Page.LEFT, leaving)


def _read(request: Request, token: str) -> Leaving | None:
    links = UnsubscribeLinks.reading(services_of(request).settings)
    return None if links is None else links.read(token)


async def _wants_back(request: Request) -> bool:
    """Whether this is the page's second button. Everything else that is posted here means to leave."""
    raw = await read_raw(request, most_bytes=_MOST_BYTES)
    try:
        return parse_qs(raw.decode("utf-8", "replace"), max_num_fields=20).get("action") == ["resubscribe"]
    except ValueError:
        return False


def _unknown(request: Request) -> Response:
    if "text/html" in request.headers.get("accept", ""):
        return page(Page.UNKNOWN, None, accepts=request.headers.get("accept-language"))
    raise not_found("subscription")


def _page(request: Request, which: Page, leaving: Leaving) -> Response:
    return page(which, leaving, accepts=request.headers.get("accept-language"))
