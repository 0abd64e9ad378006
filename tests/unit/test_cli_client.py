"""The commands' way to the API: tokens, and errors as one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli import CommandError
from cli.client import Api, ApiAway, api_url, connect
from cli.embedded.home import Home

Handler = Callable[[httpx.Request], httpx.Response]


def api(handler: Handler) -> Api:
    return Api("http://api.test", "a-token", transport=httpx.MockTransport(handler))


def problem(status: int, **fields: Any) -> Handler:
    return lambda _: httpx.Response(status, json=fields, headers={"content-type": "application/problem+json"})


def test_a_request_goes_out_with_token_and_body() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(202, json={"notification_id": "n", "status": "accepted"})

    assert api(answer).send({"user_id": "ada"}) == {"notification_id": "n", "status": "accepted"}
    assert (seen[0].method, seen[0].url.path) == ("POST", "/api/v1/notifications")
    assert seen[0].headers["authorization"] == "Bearer a-token"
    assert json.loads(seen[0].content) == {"user_id": "ada"}


def test_an_id_from_the_command_line_stays_within_its_path_segment() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(404, json={"detail": "no such notification"})

    with pytest.raises(CommandError, match="no such notification"):
        api(answer).notification("../users?x=1")
    assert seen[0].url.raw_path == b"/api/v1/notifications/..%2Fusers%3Fx%3D1"


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (problem(422, title="Unprocessable", detail="The request is not valid."), "The request is not valid"),
        (
            problem(422, detail="Not valid", errors=[{"field": "send_at", "reason": "must be a time"}]),
            "Not valid; send_at: must be a time",
        ),
        (problem(403, title="Forbidden"), "Forbidden"),
        (problem(401, detail="it has expired"), "the token is refused: it has expired; set COMMS_TOKEN to a valid one"),
        (lambda _: httpx.Response(500, text="<html>"), "HTTP 500"),
        (lambda _: httpx.Response(200, text="<html>"), "what answers at http://api.test/ is not this service's API"),
        (lambda _: httpx.Response(500, json=["odd"]), "HTTP 500"),
    ],
)
def test_a_refusal_is_one_sentence(handler: Handler, text: str) -> None:
    with pytest.raises(CommandError) as caught:
        api(handler).notification("n")
    assert str(caught.value) == text
    assert not isinstance(caught.value, ApiAway)


def raising(error: Exception) -> Handler:
    def answer(_: httpx.Request) -> httpx.Response:
        raise error

    return answer


@pytest.mark.parametrize(
    ("handler", "text"),
    [
        (problem(503, detail="Postgres is away"), "the API can't answer now: Postgres is away"),
        (raising(httpx.ConnectError("x")), "no connection"),
        (raising(httpx.ReadTimeout("x")), "timed out"),
        (raising(httpx.RemoteProtocolError("x")), "connection lost"),
    ],
)
def test_an_api_that_is_away_is_told_apart(handler: Handler, text: str) -> None:
    with pytest.raises(ApiAway, match=text):
        api(handler).notification("n")


def test_where_the_api_is() -> None:
    assert api_url({}) == "http://localhost:8002"
    assert api_url({"PORT": "9000"}) == "http://localhost:9000"
    assert api_url({"PUBLIC_URL": "https://comms.example.com", "PORT": "9000"}) == "https://comms.example.com"


def test_a_token_is_the_environments_or_the_stand_ins(tmp_path: Path) -> None:
    from cli.embedded.identity import signing_key, validate

    def answer(request: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"authorization": request.headers["authorization"]})

    transport = httpx.MockTransport(answer)
    home = Home.open(tmp_path / "home")
    with connect({"COMMS_TOKEN": "mine"}, home, transport=transport) as given:
        assert given.notification("n")["authorization"] == "Bearer mine"
    with pytest.raises(CommandError, match="COMMS_TOKEN is not set"):
        connect({}, home, transport=transport)
    home.write_env({"PORT": "8002"})
    with connect({}, home, roles=("service",), user_id="me", transport=transport) as signed:
        identity = validate(signing_key(home), signed.notification("n")["authorization"])
    assert identity is not None
    assert (identity["user_id"], identity["roles"]) == ("me", ["service"])
