"""`comms`: the command line.

A command is a module in `cli/commands` with a line in COMMANDS: it has a function of its own name, or,
for a group of commands, a `typer.Typer` named `app`. Only the module of the command that runs is imported.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperGroup

from cli import CommandError
from cli.embedded.home import Home
from models.errors import CommsError

#: In the order of `comms --help`.
COMMANDS = (
    "up",
    "api",
    "worker",
    "migrate",
    "token",
    "send",
    "status",
    "topics",
    "queues",
    "providers",
    "dlq",
)

#: These tell where the servers are; `comms up` writes them to COMMS_HOME/env.
_SERVER_SETTINGS = ("KAFKA_BOOTSTRAP_SERVERS", "DATABASE_URL", "REDIS_URL", "IDENTITY_SERVICE_URL")


class _Commands(TyperGroup):
    """Imports a command's module when it is asked for: `comms token` has no use for Kafka.

    Typed with Any, because some versions of typer have click within and others beside them.
    """

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"cli.commands.{cmd_name}")
        group = getattr(module, "app", None)
        if group is None:
            group = typer.Typer(add_completion=False, rich_markup_mode=None)
            group.command(cmd_name)(getattr(module, cmd_name))
        command = typer.main.get_command(group)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def comms(context: typer.Context) -> None:
    """Notifications by e-mail, SMS, push and in-app, through Kafka."""
    if context.invoked_subcommand != "up":
        os.environ.update(running_stack(os.environ, Home.locate()))


def running_stack(environment: Mapping[str, str], home: Home) -> dict[str, str]:
    """The settings of the stack that `comms up` runs in this home, for the other commands to find it.

    All of them or none: where the environment names another server itself, it is not mixed with ours.
    """
    ours = home.read_env()
    if any(environment.get(name) not in (None, "", ours.get(name)) for name in _SERVER_SETTINGS):
        return {}
    return {name: value for name, value in ours.items() if name not in environment}


def main() -> None:
    """The entry point: an error that we know is one sentence on stderr and exit code 1."""
    try:
        app(prog_name="comms")
    except (CommandError, CommsError) as error:
        print(f"comms: {error}", file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has gone; nothing of it may be written at exit either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
