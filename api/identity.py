"""Who calls: bearer tokens, validated by the identity service and remembered for a moment."""

from __future__ import annotations

import asyncio
import hashlib
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

import httpx
import structlog
from cachetools import LRUCache
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from api.errors import Problem
from models.enums import Role
from models.errors import Unavailable
from models.json_values import Text

log = structlog.get_logger()

TIMEOUT_SECONDS = 2.0
#: A refused token may have been refused too early (clocks, replication), so this is short.
REFUSED_SECONDS = 5.0
_REMEMBERED = 10_000
_ROLES = frozenset(role.value for role in Role)
#: https://www.rfc-editor.org/rfc/rfc6750#section-2.1
_BEARER = re.compile(r"^bearer +([A-Za-z0-9._~+/-]{1,8000}=*)$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls and what the identity service says they are."""

    user_id: str
    roles: frozenset[Role]

    def has(self, role: Role) -> bool:
        """Whether the caller has the role, or is an admin, who has all."""
        return role in self.roles or Role.ADMIN in self.roles


class Identifies(Protocol):
    """Tells who a request's `Authorization` header stands for."""

    async def caller(self, authorization: str | None) -> Caller:
        """Raises Problem (401) or Unavailable; never lets in somebody unknown."""


class _Answer(BaseModel):
    """What `POST /auth/validate` answers; anything else is taken for a fault of that service."""

    model_config = ConfigDict(strict=True, extra="ignore")

    valid: bool
    user_id: Annotated[Text, Field(min_length=1, max_length=255)]
    roles: list[str]
    exp: int | None = None


class _Validity(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")

    valid: bool


@dataclass(frozen=True, slots=True)
class _Remembered:
    caller: Caller | None
    until: float


class IdentityService:
    """The identity service's answers, each asked for once at a time and remembered for at most `cache_seconds`.

    `clock` counts seconds steadily; `wall` is the time of day, to compare with a token's `exp`.
    """

    def __init__(
        self,
        client: httpx.AsyncClient,
        *,
        cache_seconds: float,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._cache_seconds = cache_seconds
        self._clock = clock
        self._wall = wall
        self._known: LRUCache[bytes, _Remembered] = LRUCache(_REMEMBERED)
        self._asking: dict[bytes, asyncio.Task[Caller | None]] = {}

    async def caller(self, authorization: str | None) -> Caller:
        """Who the header's bearer is.

        Raises:
            Problem: 401 without a token, or with one that is refused.
            Unavailable: the identity service is away, or answers what it never should.
        """
        key = hashlib.sha256((authorization or "").encode()).digest()
        known = self._known.get(key)
        if known is not None and known.until > self._clock():
            caller = known.caller
        else:
            caller = await self._asked(key, _token(authorization))
        if caller is None:
            raise unauthorized("The token is not valid, or no longer.", error="invalid_token")
        return caller

    async def _asked(self, key: bytes, token: str) -> Caller | None:
        """Asks once for all that wait for the same token, whoever of them goes away meanwhile."""
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = asyncio.create_task(self._ask(key, token))
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        return await asyncio.shield(task)

    async def _ask(self, key: bytes, token: str) -> Caller | None:
        answer = await self._answer(token)
        if answer is None:
            self._remember(key, None, min(REFUSED_SECONDS, self._cache_seconds))
            return None
        left = self._cache_seconds if answer.exp is None else min(self._cache_seconds, answer.exp - self._wall())
        if answer.exp is not None and answer.exp <= self._wall():
            return None
        roles = frozenset(Role(role) for role in answer.roles if role in _ROLES)
        caller = Caller(answer.user_id, roles)
        self._remember(key, caller, left)
        return caller

    def _remember(self, key: bytes, caller: Caller | None, seconds: float) -> None:
        if seconds > 0:
            self._known[key] = _Remembered(caller, self._clock() + seconds)

    async def _answer(self, token: str) -> _Answer | None:
        """The answer about a valid token; None for a refused one."""
        response = await self._post(token)
        if response.status_code == httpx.codes.UNAUTHORIZED:
            return None
        if response.status_code != httpx.codes.OK:
            raise _odd(f"status {response.status_code}")
        try:
            if not _Validity.model_validate_json(response.content).valid:
                return None
            return _Answer.model_validate_json(response.content)
        except ValidationError:
            raise _odd("unreadable") from None

    async def _post(self, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS):
                try:
                    return await self._client.post("/auth/validate", headers=headers)
                except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                    # A kept connection that the service has just closed; validating twice is harmless.
                    return await self._client.post("/auth/validate", headers=headers)
        except (TimeoutError, httpx.HTTPError):
            log.warning("identity service does not answer")
            raise Unavailable("identity", "the identity service does not answer") from None


def identity_client(url: str) -> httpx.AsyncClient:
    """The HTTP client for the identity service: an internal one, so no proxy of the environment is used."""
    return httpx.AsyncClient(
        base_url=url,
        timeout=TIMEOUT_SECONDS,
        limits=httpx.Limits(max_connections=50, max_keepalive_connections=20, keepalive_expiry=30),
        trust_env=False,
    )


def _token(authorization: str | None) -> str:
    found = _BEARER.match(authorization) if authorization else None
    if found is None:
        raise unauthorized("Send the header Authorization: Bearer <token>.")
    return found[1]


def unauthorized(detail: str, *, error: str | None = None) -> Problem:
    """A 401 with its challenge."""
    challenge = 'Bearer realm="comms"' + (f', error="{error}"' if error else "")
    return Problem("unauthorized", detail, headers={"WWW-Authenticate": challenge})


def _odd(what: str) -> Unavailable:
    log.error("identity service answers oddly", answer=what)
    return Unavailable("identity", "the identity service gives no usable answer")
