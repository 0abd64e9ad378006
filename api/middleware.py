"""The outermost layer of the app: request ids, error documents, counting, logging.

Plain ASGI, as it is on the path of every request.
"""

from __future__ import annotations

import re
import time
from typing import Any

import structlog
import uuid_utils
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from api.errors import MEDIA_TYPE, Problem, encode, problem_of
from streams.deadline import Deadline

log = structlog.get_logger()

_REQUEST_ID = re.compile(rb"^[A-Za-z0-9._-]{1,128}$")
#: Answers are for the caller alone, and what they say they are.
_FIXED = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
_SLOW_SECONDS = 1.0
#: Whatever hangs, the caller has an answer within 10 s; each single step has a shorter deadline of its own.
ANSWER_SECONDS = 9.0


def request_id(scope: Scope) -> str:
    """The caller's X-Request-ID where it is harmless, else a new one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            return value.decode() if _REQUEST_ID.match(value) else uuid_utils.uuid7().hex
    return uuid_utils.uuid7().hex


def route_of(scope: Scope) -> str:
    """The route's template; one word for all that is no route."""
    return getattr(scope.get("route"), "path", "unmatched")


class Edge:
    """Gives each request an id, turns every exception into a problem document, counts and logs."""

    def __init__(self, app: ASGIApp, *, root_path: str = "", answer_seconds: float = ANSWER_SECONDS) -> None:
        self._app = app
        self._answer_seconds = answer_seconds
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        scope["root_path"] = self._root_path
        deadline = Deadline(self._answer_seconds)
        answer = _Answer(scope, send, deadline)
        try:
            with deadline:
                await self._app(scope, _Patient(receive, deadline), answer.send)
        except ClientDisconnect:
            answer.status = 499  # The usual number for a caller who went away; nobody is there to read it.
        except Exception as error:
            await answer.fail(problem_of(error))
        self._account(scope, answer, time.perf_counter() - began)

    def _account(self, scope: Scope, answer: _Answer, seconds: float) -> None:
        route = route_of(scope)
        metrics.observe(scope["method"], route, answer.status, seconds)
        if answer.status < 400 and seconds < _SLOW_SECONDS:
            return  # Counted above; a line for each would cost as much as the request.
        tell = log.warning if answer.status >= 500 else log.info
        tell(
            "http request",
            request_id=answer.request_id,
            method=scope["method"][:16],
            route=route,
            status=answer.status,
            milliseconds=round(seconds * 1000, 1),
        )


class _Patient:
    """What comes from the caller; the time that they take is theirs."""

    def __init__(self, receive: Receive, deadline: Deadline) -> None:
        self._receive = receive
        self._deadline = deadline

    async def __call__(self) -> Message:
        self._deadline.pause()
        message = await self._receive()
        self._deadline.restart()
        return message


class _Answer:
    """One answer on its way out."""

    def __init__(self, scope: Scope, send: Send, deadline: Deadline) -> None:
        self._deadline = deadline
        self.request_id = request_id(scope)
        self.status = 500
        self._started = False
        self._send = send
        self._fixed = [*_FIXED, (b"x-request-id", self.request_id.encode())]
        scope.setdefault("state", {})["request_id"] = self.request_id

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._started = True
            self._deadline.pause()
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), *self._fixed]
        await self._send(message)

    async def fail(self, problem: Problem) -> None:
        """Answers with a problem; an answer that has begun can only be cut off."""
        if self._started:
            raise RuntimeError("failed in the middle of an answer") from None
        body = encode(problem, self.request_id)
        headers: list[tuple[bytes, Any]] = [
            (b"content-type", MEDIA_TYPE.encode()),
            (b"content-length", str(len(body)).encode()),
            *((name.lower().encode(), value.encode("latin-1")) for name, value in problem.headers.items()),
        ]
        await self.send({"type": "http.response.start", "status": problem.status, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
