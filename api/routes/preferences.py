"""What a person wants to get."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dependencies import Person, services_of
from api.documents import operation
from api.responses import reply, without_nulls
from api.schemas import PreferencesBody
from api.views import PreferencesView
from models.repositories import preferences
from models.repositories.preferences import StoredPreferences

router = APIRouter(prefix="/api/v1/users/{user_id}/preferences", tags=["people"])

_BODY = {
    "channels": {"sms": False},
    "categories": {"billing": {"email": False}},
    "quiet_hours": {"start": "22:00", "end": "07:00", "timezone": "Europe/Berlin"},
}
_VIEW = {"user_id": "user-42", **_BODY, "updated_at": "2026-01-01T12:00:00.000Z"}


@router.get(
    "",
    **operation(
        "Read preferences",
        "Only what the person chose: everything that isn't named is wanted. Empty for somebody who never chose.",
        answer=PreferencesView,
        example=_VIEW,
    ),
)
async def get_preferences(user_id: Person, request: Request) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await preferences.get(connection, user_id)
    return reply(_view(user_id, found))


@router.put(
    "",
    **operation(
        "Replace preferences",
        "All that the person chose: what is left out is wanted again. A choice for a category goes before one for a "
        "channel; transactional categories reach the person in any case. Quiet hours are kept for what is to come.",
        takes=PreferencesBody,
        takes_example=_BODY,
        answer=PreferencesView,
        example=_VIEW,
    ),
)
async def put_preferences(user_id: Person, request: Request) -> Response:
    body = await read(request, PreferencesBody)
    services = services_of(request)
    async with services.people.changing(user_id), services.engine.begin() as connection:
        stored = await preferences.put(
            connection,
            user_id=user_id,
            channels={str(channel): wanted for channel, wanted in body.channels.items()},
            categories={
                key: {str(channel): wanted for channel, wanted in chosen.items()}
                for key, chosen in body.categories.items()
            },
            quiet_hours=None if body.quiet_hours is None else body.quiet_hours.model_dump(),
        )
    return reply(_view(user_id, stored))


def _view(user_id: str, stored: StoredPreferences) -> dict[str, Any]:
    return without_nulls({"user_id": user_id, **asdict(stored)})
