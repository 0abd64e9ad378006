"""Headers as the server gives them: bytes, names in lower case.

On the path of every request, where the framework's mapping takes longer to make than these take to read.
"""

from __future__ import annotations

from starlette.requests import Request


def values(request: Request, name: bytes) -> list[bytes]:
    """All values of a header, in the order they came."""
    return [value for known, value in request.scope["headers"] if known == name]


def first(request: Request, name: bytes) -> str | None:
    """The first value of a header; None where there is none."""
    for known, value in request.scope["headers"]:
        if known == name:
            text: str = value.decode("latin-1")
            return text
    return None
