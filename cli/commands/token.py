"""`comms token`: a token of the identity stand-in."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from typing import Annotated

import typer

from cli import CommandError
from cli.embedded.home import Home


class Role(StrEnum):
    """What the bearer may do."""

    ADMIN = "admin"
    SERVICE = "service"
    USER = "user"


def token(
    role: Annotated[list[Role], typer.Option(help="May be given more than once.")],
    user: Annotated[str, typer.Option(help="Whose token it is.")],
    ttl: Annotated[int, typer.Option(help="How long it is valid, in seconds.", min=1)] = 86400,
) -> None:
    """Print a token of the identity stand-in, as the last line of output."""
    try:
        from cli.embedded.identity import sign, signing_key
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: pip install 'comms[embedded]'") from error
    key = signing_key(Home.open())
    print(sign(key, user_id=user, roles=[item.value for item in role], ttl=timedelta(seconds=ttl)))
