"""The token that says who we are to APNs, signed by the `.p8` key of the developer account."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Self

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from models.errors import Refused
from models.settings import Settings

#: Apple wants a new one no more often than every 20 minutes, and none that is older than an hour.
#: https://developer.apple.com/documentation/usernotifications/establishing-a-token-based-connection-to-apns
_USED_SECONDS = 45 * 60.0
#: After a token that was refused for its age there is a new one, but not for each call that was under way with it.
_LEAST_SECONDS = 60.0


class ApnsToken:
    """One token for all calls, made anew in time. `clock` gives Unix seconds."""

    def __init__(self, key: EllipticCurvePrivateKey, *, key_id: str, team_id: str, clock: Callable[[], float]) -> None:
        self._key = key
        self._key_id = key_id
        self._team_id = team_id
        self._clock = clock
        self._token = ""
        self._made_at = float("-inf")
        self._renewed_at = float("-inf")

    @classmethod
    def of(cls, settings: Settings, *, clock: Callable[[], float]) -> Self:
        """The token of `APNS_KEY_PATH`, `APNS_KEY_ID` and `APNS_TEAM_ID`, for `APNS_TOPIC`.

        Raises:
            Refused: naming the one that is missing or wrong.
        """
        key_path = settings.apns_key_path or ""
        for name, value in (("APNS_KEY_ID", settings.apns_key_id), ("APNS_TEAM_ID", settings.apns_team_id)):
            if not value:
                raise Refused(name, "is not set")
        if not settings.apns_topic:
            raise Refused("APNS_TOPIC", "is not set: a token serves several apps")
        try:
            key = load_pem_private_key(Path(key_path).read_bytes(), password=None)
        except (OSError, ValueError, TypeError, UnsupportedAlgorithm):
            key = None
        if not isinstance(key, EllipticCurvePrivateKey):
            raise Refused("APNS_KEY_PATH", "must be the .p8 file of an APNs key")
        return cls(key, key_id=settings.apns_key_id or "", team_id=settings.apns_team_id or "", clock=clock)

    def get(self) -> str:
        """The token for now."""
        if not 0 <= self._clock() - self._made_at < _USED_SECONDS:
            self._make()
        return self._token

    def renew(self, refused: str) -> bool:
        """Whether there is another token than this one, which was refused for its age."""
        if refused != self._token:
            return True
        if 0 <= self._clock() - self._renewed_at < _LEAST_SECONDS:
            return False
        self._renewed_at = self._clock()
        self._make()
        return True

    def _make(self) -> None:
        self._made_at = self._clock()
        claims = {"iss": self._team_id, "iat": int(self._made_at)}
        self._token = jwt.encode(claims, self._key, algorithm="ES256", headers={"kid": self._key_id})
