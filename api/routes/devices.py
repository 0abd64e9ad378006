"""A person's devices, for push messages."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from api.bodies import read
from api.dependencies import PathId, Person, services_of
from api.documents import operation
from api.errors import not_found
from api.paging import listing
from api.responses import reply, without_nulls
from api.schemas import DeviceBody
from api.views import DeviceView
from models.repositories import contacts
from models.repositories.contacts import StoredDevice

router = APIRouter(prefix="/api/v1/users/{user_id}/devices", tags=["people"])

_BODY = {"platform": "fcm", "token": "fcm-registration-token"}
_VIEW = {
    "device_id": "8f1c1a52-4c0f-5b8e-9d5b-0a5c2f1c7d10",
    **_BODY,
    "registered_at": "2026-01-01T12:00:00.000Z",
}


@router.get(
    "",
    **operation(
        "List devices",
        f"The newest first; a person has at most {contacts.MAX_DEVICES}, so there is one page.",
        answer=DeviceView,
        example=_VIEW,
        many=True,
    ),
)
async def list_devices(user_id: Person, request: Request) -> Response:
    async with services_of(request).engine.connect() as connection:
        found = await contacts.devices(connection, user_id)
    return reply(listing([_view(device) for device in found], None))


@router.put(
    "",
    **operation(
        "Register a device",
        "A token belongs to one person: the last who registered it. Registering again renews it.",
        takes=DeviceBody,
        takes_example=_BODY,
        answer=DeviceView,
        example=_VIEW,
    ),
)
async def put_device(user_id: Person, request: Request) -> Response:
    body = await read(request, DeviceBody)
    services = services_of(request)
    async with services.people.changing(user_id) as change, services.engine.begin() as connection:
        owner = await contacts.device_owner(connection, platform=body.platform, token=body.token)
        if owner is not None:
            await change.also(owner)
        stored = await contacts.put_device(
            connection, user_id=user_id, platform=body.platform, token=body.token, kind=body.kind
        )
    return reply(_view(stored))


@router.delete(
    "",
    **operation(
        "Forget a device by its token",
        "For apps that sign out and know their token; a token in a URL would end up in logs.",
        takes=DeviceBody,
        takes_example=_BODY,
        answer=None,
        status=204,
        errors=["not_found"],
    ),
)
async def delete_by_token(user_id: Person, request: Request) -> Response:
    body = await read(request, DeviceBody)
    await _delete(request, user_id, body.platform, body.token)
    return Response(status_code=204)


@router.delete(
    "/{device_id}",
    **operation("Forget a device", "By the id from the list.", answer=None, status=204, errors=["not_found"]),
)
async def delete_device(user_id: Person, device_id: PathId, request: Request) -> Response:
    async with services_of(request).engine.connect() as connection:
        known = {device.device_id: device for device in await contacts.devices(connection, user_id)}
    device = known.get(device_id)
    if device is None:
        raise not_found("device")
    await _delete(request, user_id, device.platform, device.token)
    return Response(status_code=204)


async def _delete(request: Request, user_id: str, platform: str, token: str) -> None:
    services = services_of(request)
    async with services.people.changing(user_id), services.engine.begin() as connection:
        removed = await contacts.remove_device(connection, user_id=user_id, platform=platform, token=token)
    if not removed:
        raise not_found("device")


def _view(device: StoredDevice) -> dict[str, Any]:
    return without_nulls(
        {
            "device_id": device.device_id,
            "platform": device.platform,
            "token": device.token,
            "kind": device.kind,
            "registered_at": device.registered_at,
        }
    )
