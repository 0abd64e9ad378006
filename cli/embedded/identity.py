"""A stand-in for the identity service: it signs tokens, and validates them as that service does.

For work on one machine only: whoever can read the key in COMMS_HOME can be anybody.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import jwt

from cli.embedded.home import Home
from cli.embedded.parts import Part, accepts
from cli.embedded.ports import LOOPBACK, Ports
from cli.embedded.programs import python_environment, python_module

ROLES = ("admin", "service", "user")
_ALGORITHM = "HS256"
_ISSUER = "comms-identity-stand-in"
_KEY = "identity"


def sign(key: str, *, user_id: str, roles: Sequence[str], ttl: timedelta) -> str:
    """A token that says who its bearer is, for `ttl` from now."""
    now = int(time.time())
    expires_at = now + int(ttl.total_seconds())
    claims = {"iss": _ISSUER, "sub": user_id, "roles": list(roles), "iat": now, "exp": expires_at}
    return jwt.encode(claims, key, algorithm=_ALGORITHM)


def validate(key: str, authorization: str) -> dict[str, Any] | None:
    """The answer for the header's bearer; None when the token is not ours, damaged or over."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer":
        return None
    try:
        claims = jwt.decode(
            token.strip(),
            key,
            algorithms=[_ALGORITHM],
            issuer=_ISSUER,
            options={"require": ["sub", "exp", "roles"]},
        )
    except jwt.InvalidTokenError:
        return None
    return {"valid": True, "user_id": claims["sub"], "roles": claims["roles"], "exp": claims["exp"]}


def signing_key(home: Home) -> str:
    """The key of this home's stand-in, made at the first call."""
    return home.secret(_KEY)


def prepare(home: Home, ports: Ports) -> Part:
    signing_key(home)
    port = ports.take("identity")
    return Part(
        name="identity",
        command=python_module("cli.embedded.identity", "--port", str(port), "--home", str(home.path)),
        env=python_environment(),
        ready=lambda: accepts(port),
        gives={"IDENTITY_SERVICE_URL": f"http://{LOOPBACK}:{port}"},
    )


def create_app(key: str) -> Any:
    """The ASGI app: POST /auth/validate, GET /health."""
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def answer(request: Request) -> JSONResponse:
        identity = validate(key, request.headers.get("authorization", ""))
        if identity is None:
            return JSONResponse({"valid": False}, status_code=401, headers={"WWW-Authenticate": "Bearer"})
        return JSONResponse(identity)

    async def health(request: Request) -> JSONResponse:
        return JSONResponse({"status": "ok"})

    return Starlette(
        routes=[Route("/auth/validate", answer, methods=["POST"]), Route("/health", health, methods=["GET"])]
    )


def _main() -> None:
    import uvicorn

    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--home", required=True)
    arguments = parser.parse_args()
    app = create_app(signing_key(Home.open(arguments.home)))
    uvicorn.run(app, host=arguments.host, port=arguments.port, log_level="warning", access_log=False)


if __name__ == "__main__":
    _main()
