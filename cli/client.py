"""The HTTP API as the commands use it: where it is, which token it gets, and its errors as one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from cli import CommandError
from cli.embedded.home import Home

_TIMEOUT_SECONDS = 15.0
_TOKEN_LIFE = timedelta(hours=1)
#: Where a proxy of the environment has no business.
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


class ApiAway(CommandError):
    """The API can't be reached or can't answer now. What was asked may or may not have been done."""


class ApiRefused(CommandError):
    """The API refuses what was asked; `code` is the problem's stable name, as in `not_found`."""

    def __init__(self, reason: str, code: str = "") -> None:
        super().__init__(reason)
        self.code = code


class Api:
    """A connection to the API at `base_url`, as the bearer of `token`."""

    def __init__(self, base_url: str, token: str, *, transport: httpx.BaseTransport | None = None) -> None:
        self.base_url = base_url.rstrip("/")
        self._client = httpx.Client(
            base_url=self.base_url,
            headers={"Authorization": f"Bearer {token}"},
            timeout=_TIMEOUT_SECONDS,
            transport=transport,
            trust_env=urlsplit(base_url).hostname not in _LOOPBACK,
        )

    def send(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Hands in a notification request; returns the answer of the 202."""
        return self.call("POST", "/api/v1/notifications", body=request)

    def notification(self, notification_id: str) -> dict[str, Any]:
        """A notification with its deliveries and timeline."""
        return self.call("GET", f"/api/v1/notifications/{quote(notification_id, safe='')}")

    def call(self, method: str, path: str, *, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Calls an operation that answers with a JSON object.

        Raises:
            ApiAway: when the API doesn't answer, or says that it can't now.
            ApiRefused: when it refuses, with its reason.
        """
        try:
            response = self._client.request(method, path, json=body)
        except httpx.InvalidURL:
            raise CommandError("PUBLIC_URL is no URL that can be called") from None
        except httpx.TransportError as error:
            raise ApiAway(
                f"the API at {self.base_url} does not answer ({_cause(error)}); is `comms up` running?"
            ) from None
        if response.is_success:
            return _object(response)
        raise _refusal(response)

    def close(self) -> None:
        """Lets go of the connection."""
        self._client.close()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def connect(
    environment: Mapping[str, str],
    home: Home,
    *,
    roles: Sequence[str] = ("service",),
    user_id: str = "comms-cli",
    transport: httpx.BaseTransport | None = None,
) -> Api:
    """The API that the environment names, with COMMS_TOKEN, or a token of this home's identity stand-in.

    Raises:
        CommandError: when there is no token to be had.
    """
    token = environment.get("COMMS_TOKEN") or _stand_in_token(home, roles=roles, user_id=user_id)
    return Api(api_url(environment), token, transport=transport)


def api_url(environment: Mapping[str, str]) -> str:
    """PUBLIC_URL, else the usual port of this machine."""
    return environment.get("PUBLIC_URL") or f"http://localhost:{environment.get('PORT') or 8002}"


def _stand_in_token(home: Home, *, roles: Sequence[str], user_id: str) -> str:
    if not home.env_file.exists():
        raise CommandError("COMMS_TOKEN is not set, and no `comms up` runs here that could give a token")
    try:
        from cli.embedded.identity import sign, signing_key
    except ImportError:  # An installation without the embedded servers.
        raise CommandError("COMMS_TOKEN is not set") from None
    return sign(signing_key(home), user_id=user_id, roles=roles, ttl=_TOKEN_LIFE)


def _cause(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectError):
        return "no connection"
    return "timed out" if isinstance(error, httpx.TimeoutException) else "connection lost"


def _object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise CommandError(f"what answers at {response.url.copy_with(path='/')} is not this service's API")
    return answer


def _refusal(response: httpx.Response) -> CommandError:
    problem = _problem(response)
    reason = _reason(problem, response.status_code)
    if response.status_code == httpx.codes.UNAUTHORIZED:
        return ApiRefused(f"the token is refused: {reason}; set COMMS_TOKEN to a valid one", "unauthorized")
    if response.status_code in (429, 502, 503, 504):
        return ApiAway(f"the API can't answer now: {reason}")
    return ApiRefused(reason, str(problem.get("code") or ""))


def _problem(response: httpx.Response) -> dict[str, Any]:
    try:
        problem = response.json()
    except ValueError:
        problem = None
    return problem if isinstance(problem, dict) else {}


def _reason(problem: Mapping[str, Any], status: int) -> str:
    """The problem document (RFC 9457) as a sentence: detail, else title, and the fields it leaves out."""
    text = str(problem.get("detail") or problem.get("title") or f"HTTP {status}").rstrip(".")
    fields = [item for item in problem.get("errors") or () if isinstance(item, dict)]
    return "; ".join([text, *(_field(item) for item in fields if str(item.get("reason")) not in text)])


def _field(item: Mapping[str, Any]) -> str:
    return f"{item.get('field') or 'request'}: {item.get('reason') or 'is not valid'}"
