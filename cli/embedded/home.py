"""COMMS_HOME: the folder in which `comms up` keeps its state."""

from __future__ import annotations

import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cli import CommandError

#: Folders that only their owner may look into. `data` and the home itself stay passable (not listable),
#: because Postgres, started by root, runs as another user and has to reach its own folder below them.
_PRIVATE = 0o700
_PASSABLE = 0o711


def write_atomically(path: Path, content: str, *, mode: int = 0o600) -> None:
    """Replaces the file in one step: a reader sees the old content or the new, never a part."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "w") as file:
            os.fchmod(handle, mode)
            file.write(content)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _make_folder(folder: Path, mode: int) -> None:
    """A folder that is there already keeps its mode: it may be one that others use."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(mode)


@dataclass(frozen=True)
class Home:
    """The paths under COMMS_HOME."""

    path: Path

    @classmethod
    def open(cls, path: Path | str | None = None) -> Home:
        """The home at `path`, else at COMMS_HOME, else `.comms`; its folders are made.

        Raises CommandError when they can't be.
        """
        home = cls.locate(path)
        try:
            for folder, mode in home._folders():
                _make_folder(folder, mode)
        except OSError as error:
            raise CommandError(f"COMMS_HOME can't be used: {error.strerror}: {error.filename}") from error
        return home

    @classmethod
    def locate(cls, path: Path | str | None = None) -> Home:
        """The same without touching the disk."""
        return cls(Path(path or os.environ.get("COMMS_HOME") or ".comms").absolute())

    def _folders(self) -> Iterator[tuple[Path, int]]:
        yield self.path, _PASSABLE
        yield self.data, _PASSABLE
        for folder in (self.run, self.log, self.mail):
            yield folder, _PRIVATE

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def run(self) -> Path:
        return self.path / "run"

    @property
    def log(self) -> Path:
        return self.path / "log"

    @property
    def mail(self) -> Path:
        return self.path / "mail"

    @property
    def env_file(self) -> Path:
        return self.path / "env"

    def log_file(self, name: str) -> Path:
        return self.log / f"{name}.log"

    def pid_file(self, name: str) -> Path:
        return self.run / f"{name}.pid"

    def secret(self, name: str) -> str:
        """A random secret of that name (43 URL-safe characters), made at the first call and kept."""
        path = self.data / f"{name}.secret"
        if not path.exists():
            write_atomically(path, secrets.token_urlsafe(32))
        return path.read_text()

    def write_env(self, values: Mapping[str, str]) -> None:
        """Writes the `env` file: KEY=value lines, as they are, without quotes."""
        write_atomically(self.env_file, "".join(f"{key}={value}\n" for key, value in values.items()))

    def read_env(self) -> dict[str, str]:
        """What `write_env` wrote; empty when there is no such file."""
        try:
            lines = self.env_file.read_text().splitlines()
        except OSError:
            return {}
        pairs = (line.partition("=") for line in lines if "=" in line)
        return {key: value for key, _, value in pairs}

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the home for this process; the kernel lets go of it when the process dies.

        Raises CommandError when another process holds it.
        """
        with (self.run / "lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise CommandError(f"`comms up` is already running in {self.path}") from None
            yield
