"""Where a person can be reached."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dependencies import Person, services_of
from api.documents import operation
from api.errors import not_found
from api.responses import reply, without_nulls
from api.schemas import ContactBody
from api.views import ContactView
from models.repositories import contacts

router = APIRouter(prefix="/api/v1/users/{user_id}/contact", tags=["people"])

_BODY = {"email": "ada@example.com", "phone": "+4915112345678", "name": "Ada", "timezone": "Europe/Berlin"}
_VIEW = {"user_id": "user-42", **_BODY, "updated_at": "2026-01-01T12:00:00.000Z"}


@router.get(
    "",
    **operation(
        "Read a contact",
        "The person's addresses as they are stored. For the person, and for services.",
        answer=ContactView,
        example=_VIEW,
        errors=["not_found"],
    ),
)
async def get_contact(user_id: Person, request: Request) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await contacts.get(connection, user_id)
    if found is None:
        raise not_found("contact")
    return reply(without_nulls(asdict(found)))


@router.put(
    "",
    **operation(
        "Replace a contact",
        "The whole contact: what is left out is removed. E-mail addresses and phone numbers are stored in their "
        "normal form (E.164).",
        takes=ContactBody,
        takes_example=_BODY,
        answer=ContactView,
        example=_VIEW,
    ),
)
async def put_contact(user_id: Person, request: Request) -> Response:
    body = await read(request, ContactBody)
    services = services_of(request)
    async with services.people.changing(user_id), services.engine.begin() as connection:
        stored = await contacts.put(
            connection,
            user_id=user_id,
            email=body.email,
            phone=body.phone,
            name=body.name,
            locale=body.locale,
            timezone=body.timezone,
        )
    return reply(without_nulls(asdict(stored)))


@router.delete(
    "",
    **operation(
        "Remove a contact",
        "Forgets the person's addresses; their devices stay. An older record of `user.contacts` can't bring it back.",
        answer=None,
        status=204,
        errors=["not_found"],
    ),
)
async def delete_contact(user_id: Person, request: Request) -> Response:
    services = services_of(request)
    async with services.people.changing(user_id), services.engine.begin() as connection:
        removed = await contacts.remove(connection, user_id)
    if not removed:
        raise not_found("contact")
    return Response(status_code=204)
