"""Google's access token of a service account: fetched in a thread, kept until shortly before its end.

Google's library speaks by blocking sockets and may take seconds, so it never runs in the event loop. However many calls
need a token, one asks for it.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from pathlib import Path
from typing import Any

import structlog
from google.auth.exceptions import GoogleAuthError
from google.auth.transport.requests import Request
from google.oauth2.service_account import Credentials

from models.errors import Refused

log = structlog.get_logger()

SCOPES = ("https://www.googleapis.com/auth/firebase.messaging",)
#: It is renewed so long before its end, beside the calls that go on with the old one.
_EARLY_SECONDS = 300.0
#: From here on the old one is not used any more.
_LATE_SECONDS = 30.0
#: After a failure the next one is asked for no sooner, while the old one is good.
_PAUSE_SECONDS = 5.0
_FETCH_SECONDS = 5.0
_PROJECT = re.compile(r"[a-z0-9][a-z0-9.:-]{0,98}")

#: A token, and when it ends (Unix seconds).
Fetch = Callable[[], tuple[str, float]]


class AccessToken:
    """See the module. `fetch` blocks and is run in a thread."""

    def __init__(self, fetch: Fetch, *, clock: Callable[[], float] = time.time) -> None:
        self._fetch = fetch
        self._clock = clock
        self._token: str | None = None
        self._ends_at = 0.0
        self._not_before = 0.0
        self._fetching: asyncio.Task[str] | None = None

    def current(self) -> str | None:
        """The token that is good for now; None where one has to be waited for."""
        now = self._clock()
        if self._token is None or now >= self._ends_at - _LATE_SECONDS:
            return None
        if now >= self._ends_at - _EARLY_SECONDS and now >= self._not_before:
            self._begin()
        return self._token

    async def get(self) -> str:
        """A token that is good for now.

        Raises:
            google.auth.exceptions.GoogleAuthError: when there is none to be had.
        """
        token = self.current()
        return token if token is not None else await asyncio.shield(self._begin())

    def forget(self, token: str) -> None:
        """A token that was refused is not used again."""
        if token == self._token:
            self._token = None

    async def close(self) -> None:
        """Waits for no thread: what it brings is thrown away."""
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    def _begin(self) -> asyncio.Task[str]:
        if self._fetching is None:
            self._fetching = asyncio.create_task(self._renew(), name="access token")
            self._fetching.add_done_callback(self._ended)
        return self._fetching

    async def _renew(self) -> str:
        token, self._ends_at = await asyncio.to_thread(self._fetch)
        self._token = token
        return token

    def _ended(self, task: asyncio.Task[str]) -> None:
        self._fetching = None
        if not task.cancelled() and (error := task.exception()) is not None:
            self._not_before = self._clock() + _PAUSE_SECONDS
            log.warning("no access token", error=type(error).__name__)


class _Impatient(Request):
    """Google's transport with a limit of its own: the library's is two minutes."""

    def __call__(
        self,
        url: Any,
        method: Any = "GET",
        body: Any = None,
        headers: Any = None,
        timeout: Any = _FETCH_SECONDS,
        **more: Any,
    ) -> Any:
        limit = min(timeout, _FETCH_SECONDS)
        return super().__call__(url, method=method, body=body, headers=headers, timeout=limit, **more)  # type: ignore[no-untyped-call]


def service_account(setting: str, value: str | None) -> dict[str, Any]:
    """The JSON of a service account, given itself or by its path.

    Raises:
        Refused: naming the setting; never its value.
    """
    if not value:
        raise Refused(setting, "is not set")
    try:
        text = value if value.lstrip().startswith("{") else Path(value).read_text()
        info = json.loads(text)
    except (OSError, ValueError):
        raise Refused(setting, "must be the JSON of a service account, or the path of a file with it") from None
    if not isinstance(info, dict) or not _PROJECT.fullmatch(str(info.get("project_id", ""))):
        raise Refused(setting, "names no project_id: it must be the JSON of a service account")
    return info


def fetcher(setting: str, info: Mapping[str, Any]) -> Fetch:
    """Asks the `token_uri` of the account.

    Raises:
        Refused: naming the setting, when the account has no usable key.
    """
    try:
        credentials = Credentials.from_service_account_info(info, scopes=SCOPES)  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, GoogleAuthError):
        raise Refused(setting, "has no usable private key, or lacks client_email or token_uri") from None

    def fetch() -> tuple[str, float]:
        credentials.refresh(_Impatient())
        return str(credentials.token), credentials.expiry.replace(tzinfo=UTC).timestamp()

    return fetch
