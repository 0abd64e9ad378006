"""The OpenAPI document: operations read their bodies by hand, so what they take and give is said here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from starlette.responses import Response

from api.errors import KINDS, MEDIA_TYPE
from api.views import ProblemView
from models.requests import Contract

_REF = "#/components/schemas/{model}"
_JSON: Final = "application/json"

DESCRIPTION = """\
Notifications by e-mail, SMS, push and in-app, through Kafka.

What is answered with 202 ends in a final state, whatever fails in between; ask `GET /api/v1/notifications/{id}`, or
consume the topic `notification.status`. Repeat a request with the same `Idempotency-Key` as often as you like: it sends
nothing again. Errors are problem documents (RFC 9457) with a stable `code` and, where fields are wrong, `errors`.
"""

TAGS = [
    {"name": "notifications", "description": "Sending, reading and cancelling."},
    {"name": "templates", "description": "Texts by channel and locale, with versions."},
    {"name": "categories", "description": "What preferences and defaults hang on."},
    {"name": "people", "description": "Contacts, devices and preferences."},
    {"name": "suppressions", "description": "Who is not to be written to, and what came back."},
    {"name": "unsubscribe", "description": "The link in each e-mail that can be ended."},
    {"name": "inbox", "description": "The caller's in-app messages."},
    {"name": "webhooks", "description": "What providers tell of messages that they took."},
    {"name": "operators", "description": "What waits where, and limits."},
    {"name": "service", "description": "Whether it lives and what it misses."},
]

#: Kinds of errors that an operation can answer with besides its own.
_EVERYWHERE = ("unavailable",)
_SIGNED_IN = ("unauthorized", "forbidden")
_WITH_BODY = ("malformed", "timeout", "too_large", "unsupported_media_type", "invalid")

_PROBLEM_EXAMPLES: dict[str, dict[str, Any]] = {
    "invalid": {
        "detail": "user_id Field required",
        "errors": [{"field": "user_id", "reason": "Field required"}],
    },
    "not_found": {"detail": "There is no such notification."},
    "not_verified": {"detail": "signature does not match."},
    "stale": {"detail": "signed too long ago."},
    "too_late": {"detail": "It was sent already, or is being sent."},
    "unavailable": {"detail": "storage: does not answer now"},
    "conflict": {
        "detail": "id is taken by a request with another body",
        "errors": [{"field": "id", "reason": "is taken by a request with another body"}],
    },
}

_models: dict[str, type[BaseModel]] = {"ProblemView": ProblemView}


def operation(
    summary: str,
    description: str,
    *,
    answer: type[BaseModel] | None,
    example: Any = None,
    status: int = 200,
    takes: type[BaseModel] | None = None,
    takes_example: Mapping[str, Any] | None = None,
    optional_body: bool = False,
    many: bool = False,
    errors: Sequence[str] = (),
    open_to_all: bool = False,
    headers: Sequence[Mapping[str, Any]] = (),
    other_answers: Mapping[int, tuple[type[BaseModel], Any]] | None = None,
) -> dict[str, Any]:
    """The arguments of a route's decorator. `many`: the answer is a page of a list.

    `other_answers` are (model, example) of further good statuses.
    """
    body = {} if takes is None else _request_body(takes, takes_example, required=not optional_body)
    kinds = [*errors, *_EVERYWHERE, *(() if open_to_all else _SIGNED_IN), *(_WITH_BODY if takes else ())]
    found = {status: _answer(answer, example, many=many)} | _problems(kinds)
    for other, (model, shown) in (other_answers or {}).items():
        found[other] = _answer(model, shown, many=False)
    extra: dict[str, Any] = dict(body)
    if not open_to_all:
        extra["security"] = [{"bearer": []}]
    if headers:
        extra["parameters"] = list(headers)
    return {
        "summary": summary,
        "description": description,
        "status_code": status,
        "responses": found,
        "response_class": Response,
        "response_model": None,
        "openapi_extra": extra,
    }


def _schema(model: type[BaseModel]) -> dict[str, Any]:
    _models[model.__name__] = model
    return {"$ref": _REF.format(model=model.__name__)}


def _request_body(model: type[BaseModel], example: Mapping[str, Any] | None, *, required: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": _schema(model)}
    if example is not None:
        content["example"] = example
    return {"requestBody": {"required": required, "content": {_JSON: content}}}


def _answer(model: type[BaseModel] | None, example: Any, *, many: bool) -> dict[str, Any]:
    if model is None:
        return {"description": "Done."}
    schema = _schema(model)
    if many:
        cursor = {"type": ["string", "null"], "description": "For `cursor`; null at the end."}
        properties = {"items": {"type": "array", "items": schema}, "next_cursor": cursor}
        schema = {"type": "object", "properties": properties, "required": ["items", "next_cursor"]}
        example = {"items": [example], "next_cursor": "AAZH0l4wAAABmj9ebG1-D4obLD1OX2Bx"}
    description = (model.__doc__ or "").strip().split("\n")[0]
    return {"description": description, "content": {_JSON: {"schema": schema, "example": example}}}


def _problems(kinds: Sequence[str]) -> dict[int, dict[str, Any]]:
    """One response for each status; kinds that share one are examples of it."""
    found: dict[int, dict[str, Any]] = {}
    for kind in dict.fromkeys(kinds):
        status, title = KINDS[kind]
        entry = found.setdefault(
            status,
            {"description": title + ".", "content": {MEDIA_TYPE: {"schema": _schema(ProblemView), "examples": {}}}},
        )
        entry["content"][MEDIA_TYPE]["examples"][kind] = {"value": _problem_example(kind)}
    return found


def _problem_example(kind: str) -> dict[str, Any]:
    status, title = KINDS[kind]
    return {
        "type": f"urn:problem-type:comms:{kind}",
        "title": title,
        "status": status,
        "code": kind,
        **_PROBLEM_EXAMPLES.get(kind, {}),
        "request_id": "019a3f5e6c7d7e0f8a1b2c3d4e5f6071",
    }


def document(app: FastAPI) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the app; made once."""
    if app.openapi_schema is None:
        made = get_openapi(title=app.title, version=app.version, description=DESCRIPTION, routes=app.routes, tags=TAGS)
        components = made.setdefault("components", {})
        inputs = [(model, "validation") for _, model in sorted(_models.items())]
        _, definitions = models_json_schema(inputs, ref_template=_REF)  # type: ignore[arg-type]
        components["schemas"] = components.get("schemas", {}) | _without_null(definitions["$defs"])
        components["securitySchemes"] = {
            "bearer": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "A token of the identity service. Roles: user, service, admin.",
            }
        }
        _drop_framework_errors(made)
        app.openapi_schema = made
    return app.openapi_schema


def _without_null(definitions: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """What comes in may be left out, but is refused when it is null; the generator knows only one of the two."""
    inputs, found = [Contract], set[str]()
    while inputs:
        model = inputs.pop()
        found.add(model.__name__)
        inputs.extend(model.__subclasses__())
    for name in found & definitions.keys():
        for described in definitions[name].get("properties", {}).values():
            kinds = [kind for kind in described.get("anyOf", ()) if kind != {"type": "null"}]
            if len(kinds) == 1:
                del described["anyOf"]
                described.pop("default", None)
                described.update(kinds[0] | described)
    return definitions


def _drop_framework_errors(made: dict[str, Any]) -> None:
    """The framework describes its own 422; ours are problem documents."""
    for name in ("HTTPValidationError", "ValidationError"):
        made["components"]["schemas"].pop(name, None)
    for path in made["paths"].values():
        for described in path.values():
            answer = described["responses"].get("422", {})
            if _JSON in answer.get("content", {}):
                described["responses"]["422"] = _problems(["invalid"])[422]
