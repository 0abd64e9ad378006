"""What routes ask for: the services, the caller, and values from the path that can't be odd."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import Depends, Path
from pydantic import AfterValidator, BeforeValidator
from starlette.requests import Request

from api import headers
from api.errors import Problem
from api.identity import Caller
from api.services import Services
from models.enums import Role

_UUID = re.compile(r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$")
_NOBODY = (UUID(int=0), UUID(int=2**128 - 1))


def services_of(request: Request) -> Services:
    """The process's services."""
    found: Services = request.app.state.services
    return found


async def caller(request: Request) -> Caller:
    """Who calls, whatever their roles."""
    return await services_of(request).identity.caller(headers.first(request, b"authorization"))


def needs(*roles: Role) -> Callable[[Request], Awaitable[Caller]]:
    """A function that lets in callers with one of the roles."""

    suffices = frozenset((*roles, Role.ADMIN))  # as `Caller.has`

    async def allowed(request: Request) -> Caller:
        found = await caller(request)
        if suffices.isdisjoint(found.roles):
            raise forbidden(*roles)
        return found

    return allowed


def forbidden(*roles: Role) -> Problem:
    """A 403 that names what would be needed."""
    return Problem("forbidden", f"The role {' or '.join(roles)} is needed.")


#: Sends and reads for others.
Service = Annotated[Caller, Depends(needs(Role.SERVICE))]
Admin = Annotated[Caller, Depends(needs(Role.ADMIN))]
#: A person, for what is their own.
User = Annotated[Caller, Depends(needs(Role.USER))]
UserOrService = Annotated[Caller, Depends(needs(Role.USER, Role.SERVICE))]


def _canonical(value: object) -> object:
    if not isinstance(value, str) or not _UUID.match(value) or UUID(value) in _NOBODY:
        raise ValueError("must be a UUID")
    return value


def _plain(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be printable")
    return value


PathId = Annotated[UUID, BeforeValidator(_canonical), Path(examples=["019a3f5e-6c7d-7e0f-8a1b-2c3d4e5f6071"])]
PathKey = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$", examples=["order-shipped"])]
_PathUser = Annotated[str, Path(min_length=1, max_length=255, examples=["user-42"]), AfterValidator(_plain)]


async def person(user_id: _PathUser, found: UserOrService) -> str:
    """The person in the path: oneself, or anybody for a service.

    Raises:
        Problem: 403 for somebody else.
    """
    if found.has(Role.SERVICE) or found.user_id == user_id:
        return user_id
    raise Problem("forbidden", "A user manages what is their own.")


Person = Annotated[str, Depends(person)]
