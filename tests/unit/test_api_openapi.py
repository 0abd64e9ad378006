"""The OpenAPI document: current, valid, and with everything a reader needs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
from openapi_spec_validator import validate

from api.documents import _models
from api.export import FILE, openapi

DOCUMENT: dict[str, Any] = json.loads(openapi())
OPERATIONS = [
    (f"{method.upper()} {path}", operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]
operations = pytest.mark.parametrize("operation", [o for _, o in OPERATIONS], ids=[name for name, _ in OPERATIONS])


def test_the_stored_document_is_current() -> None:
    assert FILE.read_bytes() == openapi(), "run: python -m api.export"


def test_it_is_valid_openapi() -> None:
    validate(DOCUMENT)


@operations
def test_each_operation_is_described(operation: dict[str, Any]) -> None:
    assert operation["summary"] and operation["description"] and operation["tags"]
    problems = [answer for status, answer in operation["responses"].items() if status >= "400"]
    assert problems
    assert all("application/problem+json" in answer["content"] for answer in problems)


def examples(operation: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """Each (schema, example) of an operation."""
    bodies = [operation["requestBody"]] if "requestBody" in operation else []
    for described in [*bodies, *operation["responses"].values()]:
        for media in described.get("content", {}).values():
            for example in media.get("examples", {"only": {"value": media.get("example")}}).values():
                yield media["schema"], example["value"]


@operations
def test_each_example_fits_its_schema(operation: dict[str, Any]) -> None:
    for schema, example in examples(operation):
        assert example is not None
        validator = jsonschema.Draft202012Validator(schema | {"components": DOCUMENT["components"]})
        assert [error.message for error in validator.iter_errors(example)] == []


@operations
def test_each_request_example_is_taken(operation: dict[str, Any]) -> None:
    if "requestBody" not in operation:
        return
    media = operation["requestBody"]["content"].get("application/json", {"schema": {}})
    if "$ref" not in media["schema"]:  # a vendor's or a browser's form, or a stream: no model of ours describes it
        return
    model = _models[media["schema"]["$ref"].rsplit("/", maxsplit=1)[-1]]
    model.model_validate_json(json.dumps(media["example"]))


@operations
def test_only_the_open_doors_need_no_token(operation: dict[str, Any]) -> None:
    assert ("security" in operation) == (operation["tags"] not in (["service"], ["webhooks"], ["unsubscribe"]))
