"""Postgres refuses to run as root: which user it runs as then, and which place that user can reach."""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from cli import CommandError
from cli.embedded.parts import Account, run_options

#: Passable for everybody on any usual machine, and kept over a reboot; /var/tmp is tidied on some.
_REACHABLE_BASES = (Path("/var/lib"), Path("/var/tmp"))  # noqa: S108 - whose the folder is gets checked
_UNPRIVILEGED = "nobody"


def unprivileged_account() -> Account | None:
    """The account for a server that must not run as root; None when we aren't root ourselves.

    Raises CommandError when this machine has no such user.
    """
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam(_UNPRIVILEGED)
    except KeyError:
        raise CommandError(f"run as root, Postgres needs the user {_UNPRIVILEGED!r}; there is none") from None
    return Account(entry.pw_uid, entry.pw_gid)


def run_as(account: Account | None, command: Sequence[str], *, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs a short command to its end as that user (None: as ourselves), with a plain locale."""
    result: subprocess.CompletedProcess[str] = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **run_options(account),
    )
    return result


def can_enter(account: Account | None, folder: Path) -> bool:
    """Whether that user can get into the folder, through all that is above it."""
    result = run_as(account, ["/bin/sh", "-c", 'cd -- "$1"', "sh", str(folder)], cwd=Path("/"))
    return result.returncode == 0


def reachable_folder(home: Path) -> Path:
    """A folder of ours that every user can pass, one for each home; it is made when it isn't there.

    Raises CommandError when someone else has put something at its place.
    """
    folder = _reachable_path(home)
    folder.mkdir(mode=0o711, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
        raise CommandError(f"{folder} belongs to someone else; Postgres can't keep its data there")
    folder.chmod(0o711)
    return folder


def make_private_folder(folder: Path, account: Account | None) -> None:
    """An empty folder for that user alone; what a broken-off attempt left there is removed."""
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(mode=0o700)
    if account is not None:
        os.chown(folder, account.user_id, account.group_id)


def forget_reachable_folder(home: Path) -> None:
    """Removes what `reachable_folder` made, with all that is in it."""
    shutil.rmtree(_reachable_path(home), ignore_errors=True)


def _reachable_path(home: Path) -> Path:
    key = hashlib.sha256(os.fsencode(home.resolve())).hexdigest()[:16]
    base = next((base for base in _REACHABLE_BASES if os.access(base, os.W_OK)), _REACHABLE_BASES[-1])
    return base / f"comms-{key}"
