"""Errors as RFC 9457 problem documents.

Whatever goes wrong behind the door comes out as one of the kinds below: never a stack trace, a statement, a path or a
value that was sent in. `problem_of` decides which.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import orjson
import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from models.errors import Conflict, Refused, Unavailable
from streams.errors import is_passing, is_refusal

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"
#: More than these are not listed, so that an answer stays small whatever was sent in.
MAX_FIELDS = 20
_MAX_TEXT = 300
RETRY_AFTER_SECONDS = 1

#: Kind → (HTTP status, title). The kind is the end of `type`, and stands by itself in `code`.
KINDS: dict[str, tuple[int, str]] = {
    "malformed": (400, "The request can't be read"),
    "unauthorized": (401, "A valid bearer token is needed"),
    "forbidden": (403, "The token's roles don't allow this"),
    "not_verified": (403, "The callback is not signed by whom it says it is from"),
    "stale": (403, "The callback was signed too long ago"),
    "not_found": (404, "There is no such thing"),
    "method_not_allowed": (405, "The resource doesn't know this method"),
    "timeout": (408, "The request's body did not arrive in time"),
    "too_late": (409, "It is too late for that"),
    "already_exists": (409, "It exists already"),
    "too_large": (413, "The request's body is too large"),
    "uri_too_long": (414, "The request's target is too long"),
    "unsupported_media_type": (415, "The request's body must be JSON in UTF-8"),
    "invalid": (422, "Some fields are not valid"),
    "conflict": (422, "The id is taken by another request"),
    "headers_too_large": (431, "The request's headers are too large"),
    "internal": (500, "Something went wrong here"),
    "not_implemented": (501, "The method is not implemented"),
    "unavailable": (503, "A server this service depends on is away"),
}
_KIND_OF_STATUS = {404: "not_found", 405: "method_not_allowed", 413: "too_large", 415: "unsupported_media_type"}


@dataclass(frozen=True, slots=True)
class FieldError:
    """What is wrong with one field. Neither text holds the value."""

    field: str
    reason: str


@dataclass(eq=False)
class Problem(Exception):
    """An error on its way to the caller. `kind` is a key of KINDS; `more` are extension members."""

    kind: str
    detail: str = ""
    errors: Sequence[FieldError] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, Any] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status code."""
        return KINDS[self.kind][0]

    def document(self, request_id: str | None = None) -> dict[str, Any]:
        """The members of the problem document."""
        status, title = KINDS[self.kind]
        found: dict[str, Any] = {
            "type": f"urn:problem-type:comms:{self.kind}",
            "title": title,
            "status": status,
            "code": self.kind,
        }
        if self.detail:
            found["detail"] = _short(self.detail)
        if self.errors:
            found["errors"] = [
                {"field": _short(error.field), "reason": _short(error.reason)} for error in self.errors[:MAX_FIELDS]
            ]
        if request_id is not None:
            found["request_id"] = request_id
        return {**found, **self.more}


def _short(text: str) -> str:
    cut = text if len(text) <= _MAX_TEXT else text[: _MAX_TEXT - 1] + "…"
    return cut.encode("utf-8", "replace").decode()


def encode(problem: Problem, request_id: str | None = None) -> bytes:
    """The document's bytes."""
    return orjson.dumps(problem.document(request_id))


def response(problem: Problem, request_id: str | None = None) -> Response:
    """The answer that carries the problem."""
    return Response(
        encode(problem, request_id), status_code=problem.status, headers=dict(problem.headers), media_type=MEDIA_TYPE
    )


def invalid(errors: Iterable[FieldError]) -> Problem:
    """Fields that break a rule."""
    listed = list(errors)
    return Problem("invalid", "; ".join(_sentence(error) for error in listed[:3]), listed)


def _sentence(error: FieldError) -> str:
    return f"{error.field} {error.reason}" if error.field else error.reason


def not_found(what: str) -> Problem:
    """`what` names the kind of thing, as in "notification"."""
    return Problem("not_found", f"There is no such {what}.")


def unavailable(detail: str, **more: Any) -> Problem:
    """A 503 that says when to come again."""
    return Problem("unavailable", detail, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}, more=more)


def problem_of(error: Exception) -> Problem:
    """The problem that an exception means to the caller. What nobody foresaw is a 500 without a word of its text."""
    if isinstance(error, Problem):
        return error
    for kind, translate in _TRANSLATIONS:
        if isinstance(error, kind):
            return translate(error)
    if is_refusal(error):
        return invalid([FieldError("body", "holds a value that can't be stored")])
    if is_passing(error):
        log.warning("a server is away", error=type(error).__name__)
        return unavailable("storage: does not answer now")
    log.error("unforeseen error", error=type(error).__name__, at=_place(error))
    return Problem("internal")


def _of_conflict(error: Conflict) -> Problem:
    return Problem("conflict", f"{error.field} {error.reason}", [FieldError(error.field, error.reason)])


def _of_refusal(error: Refused) -> Problem:
    return invalid([FieldError(error.field, error.reason)])


def _of_absence(error: Unavailable) -> Problem:
    known = getattr(error, "notification_id", None)
    more = {} if known is None else {"notification_id": str(known)}
    return unavailable(f"{error.dependency}: {error.reason}", **more)


def _of_status(error: HTTPException) -> Problem:
    kind = _KIND_OF_STATUS.get(error.status_code)
    if kind is None:
        kind = "malformed" if error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR else "internal"
    return Problem(kind, headers=error.headers or {})


def _of_parameters(error: RequestValidationError) -> Problem:
    """Parameters of the path that can't be one mean that there is no such thing; the rest is named."""
    found = error.errors()
    if any(detail["loc"][0] == "path" for detail in found):
        return not_found("resource")
    return invalid(FieldError(str(detail["loc"][-1]), _reason(detail)) for detail in found)


def _reason(detail: Mapping[str, Any]) -> str:
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    return str(detail["msg"])


def _place(error: BaseException) -> str:
    """Module and line where it was raised: enough to find it, and nothing of what was handled."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return "unknown"
    return f"{trace.tb_frame.f_globals.get('__name__', '?')}:{trace.tb_lineno}"


#: The first that fits counts.
_TRANSLATIONS: tuple[tuple[type[Exception], Callable[[Any], Problem]], ...] = (
    (HTTPException, _of_status),
    (RequestValidationError, _of_parameters),
    (Conflict, _of_conflict),
    (Refused, _of_refusal),
    (Unavailable, _of_absence),
)


async def handle(request: Request, error: Exception) -> Response:
    """For the two kinds of exceptions that the framework would otherwise answer itself."""
    return response(problem_of(error), getattr(request.state, "request_id", None))
