"""Tokens: asked for once, remembered for a moment, and never let in on trust."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from api.errors import Problem
from api.identity import Caller, IdentityService
from models.enums import Role
from models.errors import Unavailable

VALID = {"valid": True, "user_id": "u-1", "roles": ["service", "astronaut"], "exp": 2000}
Answer = Callable[[httpx.Request], httpx.Response]


class World:
    """An identity service that answers as told, and a clock that stands still."""

    def __init__(self, answer: Any = VALID, *, status: int = 200, cache_seconds: float = 30) -> None:
        self.answer, self.status, self.now = answer, status, 1000.0
        self.asked: list[str] = []
        self.gate: asyncio.Event | None = None
        client = httpx.AsyncClient(base_url="http://identity", transport=httpx.MockTransport(self._handle))
        self.service = IdentityService(
            client, cache_seconds=cache_seconds, clock=lambda: self.now, wall=lambda: self.now
        )

    async def _handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request.headers["authorization"])
        assert (request.method, request.url.path) == ("POST", "/auth/validate")
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        if isinstance(self.answer, bytes):
            return httpx.Response(self.status, content=self.answer)
        return httpx.Response(self.status, json=self.answer)

    async def caller(self, token: str = "abc") -> Caller:
        return await self.service.caller(f"Bearer {token}")


async def refused(world: World, token: str = "abc") -> str:
    with pytest.raises(Problem) as caught:
        await world.caller(token)
    assert caught.value.kind == "unauthorized"
    return caught.value.headers["WWW-Authenticate"]


async def test_a_caller_has_the_roles_that_are_known() -> None:
    caller = await World().caller()
    assert caller == Caller("u-1", frozenset({Role.SERVICE}))
    assert caller.has(Role.SERVICE) and not caller.has(Role.ADMIN)


def test_an_admin_has_all_roles() -> None:
    assert all(Caller("u", frozenset({Role.ADMIN})).has(role) for role in Role)


async def test_an_answer_is_remembered_for_its_time() -> None:
    world = World()
    await world.caller()
    world.now += 29
    await world.caller()
    assert len(world.asked) == 1
    world.now += 2
    await world.caller()
    assert world.asked == ["Bearer abc"] * 2


async def test_an_answer_is_not_remembered_past_the_tokens_end() -> None:
    world = World(VALID | {"exp": 1010})
    await world.caller()
    world.now += 11
    assert "invalid_token" in await refused(world)
    assert len(world.asked) == 2


async def test_a_token_that_is_over_is_refused_whatever_the_service_says() -> None:
    await refused(World(VALID | {"exp": 1000}))


async def test_without_exp_the_cache_time_holds() -> None:
    world = World({name: value for name, value in VALID.items() if name != "exp"})
    await world.caller()
    world.now += 29
    await world.caller()
    assert len(world.asked) == 1


async def test_no_cache_asks_each_time() -> None:
    world = World(cache_seconds=0)
    await world.caller()
    await world.caller()
    assert len(world.asked) == 2


@pytest.mark.parametrize(("answer", "status"), [({"valid": False}, 200), ({"valid": False}, 401), (b"no", 401)])
async def test_refusals_are_remembered_briefly(answer: Any, status: int) -> None:
    world = World(answer, status=status)
    await refused(world)
    await refused(world)
    assert len(world.asked) == 1
    world.answer, world.status = VALID, 200
    world.now += 6
    assert (await world.caller()).user_id == "u-1"


ODD = [
    (b"<html>", 200),
    (b"", 200),
    ([], 200),
    ({"valid": "true", "user_id": "u", "roles": []}, 200),
    ({"valid": 1, "user_id": "u", "roles": []}, 200),
    ({"valid": True}, 200),
    ({"valid": True, "user_id": "", "roles": []}, 200),
    ({"valid": True, "user_id": 7, "roles": []}, 200),
    ({"valid": True, "user_id": "a\x00b", "roles": []}, 200),
    ({"valid": True, "user_id": "u", "roles": "admin"}, 200),
    ({"valid": True, "user_id": "u", "roles": [1]}, 200),
    ({"valid": True, "user_id": "u", "roles": [], "exp": "soon"}, 200),
    ({"valid": True, "user_id": "u", "roles": [], "exp": True}, 200),
    (VALID, 204),
    (VALID, 302),
    (VALID, 403),
    (VALID, 429),
    (VALID, 500),
]


@pytest.mark.parametrize(("answer", "status"), ODD)
async def test_odd_answers_let_nobody_in_and_are_not_remembered(answer: Any, status: int) -> None:
    world = World(answer, status=status)
    with pytest.raises(Unavailable):
        await world.caller()
    world.answer, world.status = VALID, 200
    assert (await world.caller()).user_id == "u-1"


@pytest.mark.parametrize("error", [httpx.ConnectError("no"), httpx.ReadTimeout("slow"), httpx.RemoteProtocolError("x")])
async def test_a_service_that_is_away_lets_in_only_who_is_remembered(error: Exception) -> None:
    world = World()
    await world.caller("known")
    world.answer = error
    await world.caller("known")
    with pytest.raises(Unavailable):
        await world.caller("new")
    world.now += 31
    with pytest.raises(Unavailable):
        await world.caller("known")


async def test_all_that_wait_for_one_token_ask_once() -> None:
    world = World()
    world.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.caller()) for _ in range(20)]
    await asyncio.sleep(0)
    waiting[0].cancel()  # Who asked first goes away; the others still get their answer.
    await asyncio.sleep(0)
    world.gate.set()
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert {answer.user_id for answer in answers[1:] if isinstance(answer, Caller)} == {"u-1"}
    assert len(world.asked) == 1


NO_TOKENS = [None, "", "Bearer", "Bearer ", "Basic YTpi", "Bearer a b", "Bearer é", "Bearer \x00", "Token x"]


@pytest.mark.parametrize("header", [*NO_TOKENS, "Bearer " + "x" * 9000])
async def test_what_is_no_token_is_not_even_asked_about(header: str | None) -> None:
    world = World()
    with pytest.raises(Problem) as caught:
        await world.service.caller(header)
    assert caught.value.headers["WWW-Authenticate"] == 'Bearer realm="comms"'
    assert world.asked == []


async def test_the_scheme_is_read_in_any_case() -> None:
    assert (await World().service.caller("bearer  abc")).user_id == "u-1"
