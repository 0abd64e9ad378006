"""What goes wrong comes out as a problem document that says enough and no more."""

from __future__ import annotations

from uuid import UUID

import asyncpg
import orjson
import pytest
from sqlalchemy.exc import DBAPIError
from starlette.exceptions import HTTPException

from api.errors import KINDS, MAX_FIELDS, FieldError, Problem, encode, invalid, not_found, problem_of
from models.errors import Conflict, Refused, Unavailable
from streams.intake import NotAccepted

SECRET = "s3cret-value"


def database_error(original: Exception) -> DBAPIError:
    return DBAPIError(f"INSERT INTO t VALUES ('{SECRET}')", {"p": SECRET}, original)


def refused_by_postgres(sqlstate: str) -> Exception:
    error = asyncpg.PostgresError(SECRET)
    error.sqlstate = sqlstate
    return error


EXPECTED = [
    (Refused("send_at", "is in the past"), 422, "invalid"),
    (Conflict("id", "is taken"), 422, "conflict"),
    (Unavailable("kafka", "away"), 503, "unavailable"),
    (NotAccepted(UUID(int=7)), 503, "unavailable"),
    (HTTPException(404), 404, "not_found"),
    (HTTPException(405, headers={"Allow": "GET"}), 405, "method_not_allowed"),
    (HTTPException(400, SECRET), 400, "malformed"),
    (database_error(refused_by_postgres("22021")), 422, "invalid"),
    (database_error(refused_by_postgres("57P03")), 503, "unavailable"),
    (ConnectionRefusedError(SECRET), 503, "unavailable"),
    (TimeoutError(SECRET), 503, "unavailable"),
    (RuntimeError(SECRET), 500, "internal"),
    (KeyError(SECRET), 500, "internal"),
]


@pytest.mark.parametrize(("error", "status", "code"), EXPECTED)
def test_each_error_has_its_kind_and_no_secret(
    error: Exception, status: int, code: str, capfd: pytest.CaptureFixture[str]
) -> None:
    problem = problem_of(error)
    raw = encode(problem, "r-1")
    document = orjson.loads(raw)
    assert (problem.status, document["status"], document["code"]) == (status, status, code)
    assert document["request_id"] == "r-1"
    assert document["type"] == f"urn:problem-type:comms:{code}"
    told = "".join(capfd.readouterr())
    assert SECRET not in raw.decode() + told
    assert ("Retry-After" in problem.headers) == (status == 503)


def test_a_503_has_the_id_where_it_is_known() -> None:
    assert problem_of(NotAccepted(UUID(int=7))).document()["notification_id"] == str(UUID(int=7))


def test_headers_of_the_framework_are_kept() -> None:
    assert problem_of(HTTPException(405, headers={"Allow": "GET"})).headers == {"Allow": "GET"}


def test_fields_are_named_within_bounds() -> None:
    many = [FieldError("x" * 100_000, "y" * 100_000)] * 10_000
    raw = encode(invalid(many))
    assert len(raw) < 16 * 1024
    assert len(orjson.loads(raw)["errors"]) == MAX_FIELDS


def test_odd_characters_of_field_names_can_be_told() -> None:
    document = orjson.loads(encode(invalid([FieldError("metadata.\udfff\r\n<b>", "is odd")])))
    assert document["errors"][0]["field"].startswith("metadata.?")


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_has_a_status_and_a_title(kind: str) -> None:
    document = Problem(kind).document()
    assert 400 <= document["status"] < 600 and document["title"]


def test_not_found_names_the_kind_of_thing() -> None:
    assert not_found("template").document()["detail"] == "There is no such template."
