"""Who may do what, and that nobody gets in without a token."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING
from uuid import uuid4

import httpx
import pytest

from tests.fixtures.service import a_request

if TYPE_CHECKING:
    from tests.fixtures.api import RunningApi


V1 = "/api/v1"
ALL = {"user", "service", "admin"}
#: Who gets past the door; u-1 is the user.
MATRIX = [
    ("POST", "/notifications", {"service", "admin"}),
    ("GET", "/notifications", ALL),
    ("GET", "/notifications/{uuid}", ALL),
    ("POST", "/notifications/{uuid}/cancel", {"service", "admin"}),
    ("POST", "/templates", {"admin"}),
    ("GET", "/templates", {"service", "admin"}),
    ("GET", "/templates/x", {"service", "admin"}),
    ("PUT", "/templates/x", {"admin"}),
    ("GET", "/templates/x/versions", {"service", "admin"}),
    ("POST", "/templates/x/versions", {"admin"}),
    ("POST", "/templates/x/publish", {"admin"}),
    ("POST", "/templates/x/preview", {"service", "admin"}),
    ("POST", "/templates/preview", {"service", "admin"}),
    ("POST", "/categories", {"admin"}),
    ("GET", "/categories", {"service", "admin"}),
    ("GET", "/categories/x", {"service", "admin"}),
    ("PUT", "/categories/x", {"admin"}),
    ("POST", "/categories/x/resume", {"admin"}),
    ("GET", "/suppressions", {"service", "admin"}),
    ("POST", "/suppressions", {"service", "admin"}),
    ("POST", "/suppressions/import", {"service", "admin"}),
    ("GET", "/suppressions/export", {"service", "admin"}),
    ("GET", "/suppressions/{uuid}", {"service", "admin"}),
    ("DELETE", "/suppressions/{uuid}", {"service", "admin"}),
    ("GET", "/bounces", {"service", "admin"}),
    ("GET", "/bounces/rates", {"service", "admin"}),
    ("GET", "/users/u-1/preferences", ALL),
    ("PUT", "/users/u-1/preferences", ALL),
    ("GET", "/users/u-2/preferences", {"service", "admin"}),
    ("PUT", "/users/u-2/preferences", {"service", "admin"}),
    ("GET", "/users/u-1/contact", ALL),
    ("PUT", "/users/u-1/contact", ALL),
    ("DELETE", "/users/u-1/contact", ALL),
    ("GET", "/users/u-2/contact", {"service", "admin"}),
    ("DELETE", "/users/u-2/contact", {"service", "admin"}),
    ("GET", "/users/u-1/devices", ALL),
    ("PUT", "/users/u-1/devices", ALL),
    ("DELETE", "/users/u-1/devices", ALL),
    ("DELETE", "/users/u-1/devices/{uuid}", ALL),
    ("PUT", "/users/u-2/devices", {"service", "admin"}),
    ("GET", "/inbox", {"user", "admin"}),
    ("GET", "/inbox/unread-count", {"user", "admin"}),
    ("POST", "/inbox/{uuid}/read", {"user", "admin"}),
    ("POST", "/inbox/read-all", {"user", "admin"}),
    ("GET", "/queues", {"admin"}),
    ("GET", "/queues/contacts", {"admin"}),
    ("GET", "/dlq", {"admin"}),
    ("POST", "/dlq/replay", {"admin"}),
    ("GET", "/dlq/replays", {"admin"}),
    ("GET", "/dlq/replays/{uuid}", {"admin"}),
    ("GET", "/dlq/0-0", {"admin"}),
    ("GET", "/providers", {"admin"}),
    ("GET", "/rate-limits", {"admin"}),
    ("GET", "/rate-limits/channel/sms", {"admin"}),
    ("PUT", "/rate-limits/channel/sms", {"admin"}),
    ("DELETE", "/rate-limits/channel/sms", {"admin"}),
]


@pytest.mark.parametrize(("method", "path", "allowed"), MATRIX, ids=[f"{m} {p}" for m, p, _ in MATRIX])
async def test_roles(api: RunningApi, method: str, path: str, allowed: set[str]) -> None:
    target = V1 + path.replace("{uuid}", str(uuid4()))
    answers = {role: await api.client(role).request(method, target) for role in (*ALL, "nobody")}
    nobody = answers.pop("nobody")
    assert (nobody.status_code, nobody.json()["code"]) == (401, "unauthorized")
    assert nobody.headers["www-authenticate"].startswith("Bearer")
    assert {role for role, answer in answers.items() if answer.status_code != 403} == allowed
    assert all(answer.status_code not in (401, 500, 503) for answer in answers.values())


async def test_every_operation_is_in_the_matrix(api: RunningApi) -> None:
    document = (await api.client("nobody").get("/openapi.json")).json()
    paths = [path for name, path in document["paths"].items() if name.startswith(V1)]
    described = sum("security" in operation for path in paths for operation in path.values())
    assert described == len({(m, p.replace("u-1", "u").replace("u-2", "u")) for m, p, _ in MATRIX})


async def test_a_user_sees_only_their_own_notifications(api: RunningApi) -> None:
    path = f"{V1}/notifications"
    mine, theirs = a_request("u-1"), a_request("u-2")
    for request in (mine, theirs):
        assert (await api.sender.post(path, json=request)).status_code == 202
    assert (await api.user.get(f"{path}/{mine['id']}")).status_code == 200
    assert (await api.user.get(f"{path}/{theirs['id']}")).status_code == 404
    assert (await api.sender.get(f"{path}/{theirs['id']}")).status_code == 200
    listed = (await api.user.get(path)).json()["items"]
    assert {one["user_id"] for one in listed} == {"u-1"}
    assert (await api.user.get(path, params={"user_id": "u-2"})).status_code == 403
    assert (await api.sender.get(path, params={"user_id": "u-2"})).json()["items"]


@pytest.mark.parametrize("path", ["/health", "/ready", "/docs", "/openapi.json"])
async def test_open_doors(api: RunningApi, path: str) -> None:
    assert (await api.client("nobody").get(path)).status_code == 200


async def test_tokens_that_are_over_or_none_are_refused(api: RunningApi) -> None:
    over = api.identity.token("admin", ttl=timedelta(seconds=-5))
    for header in (f"Bearer {over}", "Bearer x", "Bearer null", "Bearer", "Basic YTpi", "", "Bearer a b", "bearer\tx"):
        answer = await api.client("nobody").get(f"{V1}/notifications", headers={"Authorization": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), header


async def test_headers_of_proxies_change_nothing(api: RunningApi) -> None:
    for name, value in {"X-Original-URL": "/admin", "X-HTTP-Method-Override": "DELETE", "X-User-Id": "root"}.items():
        answer: httpx.Response = await api.user.get(f"{V1}/users/u-2/contact", headers={name: value})
        assert answer.status_code == 403
