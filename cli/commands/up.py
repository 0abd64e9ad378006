"""`comms up`: everything on this machine."""

from __future__ import annotations

from typing import Annotated

import typer

from cli import CommandError
from cli.embedded.home import Home


def up(
    demo: Annotated[bool, typer.Option(help="Send one notification and show its way.")] = True,
) -> None:
    """Start the servers, the workers and the API on this machine, and keep them running until Ctrl-C.

    WORKERS says how many worker processes share the lanes (1). What dies is started again.
    """
    try:
        from cli.embedded.run import run
    except ModuleNotFoundError as error:
        raise CommandError(f"{error.name} is not installed: pip install 'comms[embedded]'") from error
    run(Home.open(), demo=demo)
