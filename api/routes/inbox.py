"""The caller's in-app messages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from api.dependencies import PathId, User, services_of
from api.documents import operation
from api.errors import not_found
from api.paging import CursorText, Limit, cursor_of, listing, page
from api.responses import reply, without_nulls
from api.views import InboxMessageView, ReadAllView, ReadView, UnreadView
from models.repositories import inbox

router = APIRouter(prefix="/api/v1/inbox", tags=["inbox"])

_VIEW = {
    "id": "5f0c6f7e-2a3b-5c4d-8e9f-0a1b2c3d4e5f",
    "notification_id": "019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071",
    "category": "general",
    "title": "Your order has shipped",
    "body": "It arrives on Friday.",
    "action_url": "https://shop.example/orders/4711",
    "created_at": "2026-01-01T12:00:00.000Z",
}


@router.get(
    "",
    **operation(
        "List messages",
        "The caller's messages, the newest first. An unread one has no `read_at`.",
        answer=InboxMessageView,
        example=_VIEW,
        many=True,
    ),
)
async def list_messages(
    request: Request,
    caller: User,
    unread: Annotated[bool, Query(description="Only unread ones.")] = False,
    limit: Limit = 50,
    cursor: CursorText = None,
) -> Response:
    place = cursor_of(cursor)
    before = None if place is None else (place.created_at, place.id)
    async with services_of(request).engine.connect() as connection:
        rows = await inbox.page(connection, caller.user_id, unread=unread, before=before, limit=limit + 1)
    shown, following = page(rows, limit)
    return reply(listing([without_nulls(asdict(message)) for message in shown], following))


@router.get(
    "/unread-count",
    **operation("Count unread messages", "For a badge.", answer=UnreadView, example={"unread": 3}),
)
async def unread_count(request: Request, caller: User) -> Response:
    async with services_of(request).engine.connect() as connection:
        return reply({"unread": await inbox.unread_count(connection, caller.user_id)})


@router.post(
    "/read-all",
    **operation(
        "Mark all messages as read", "Answers how many were unread.", answer=ReadAllView, example={"marked": 3}
    ),
)
async def read_all(request: Request, caller: User) -> Response:
    async with services_of(request).engine.begin() as connection:
        return reply({"marked": await inbox.mark_all_read(connection, caller.user_id)})


@router.post(
    "/{message_id}/read",
    **operation(
        "Mark a message as read",
        "Again is harmless: the first time stays.",
        answer=ReadView,
        example={"id": _VIEW["id"], "read_at": "2026-01-01T12:05:00.000Z"},
        errors=["not_found"],
    ),
)
async def read_message(message_id: PathId, request: Request, caller: User) -> Response:
    async with services_of(request).engine.begin() as connection:
        read_at = await inbox.mark_read(connection, caller.user_id, message_id)
    if read_at is None:
        raise not_found("message")
    return reply({"id": message_id, "read_at": read_at})
