"""COMMS_HOME: its folders, its secrets, its `env` file, its lock."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from cli import CommandError
from cli.embedded.home import Home, write_atomically


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_new_home_can_be_passed_but_not_looked_into(tmp_path: Path) -> None:
    home = Home.open(tmp_path / "a home")
    assert [_mode(path) for path in (home.path, home.data)] == [0o711, 0o711]
    assert [_mode(path) for path in (home.run, home.log, home.mail)] == [0o700] * 3


def test_a_folder_that_was_there_keeps_its_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert _mode(Home.open(tmp_path).path) == 0o755


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CommandError, match="COMMS_HOME can't be used"):
        Home.open(tmp_path / "file")


def test_a_secret_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    secret = home.secret("postgres")
    assert len(secret) == 43
    assert Home.open(tmp_path).secret("postgres") == secret
    assert home.secret("other") != secret
    assert _mode(home.data / "postgres.secret") == 0o600


def test_env_is_read_as_it_was_written(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    assert home.read_env() == {}
    values = {"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/d?a=b", "EMPTY": ""}
    home.write_env(values)
    assert home.read_env() == values
    assert home.env_file.read_text() == "DATABASE_URL=postgresql://u:p@127.0.0.1:1/d?a=b\nEMPTY=\n"
    assert _mode(home.env_file) == 0o600


def test_a_failed_write_leaves_the_old_content_and_no_litter(tmp_path: Path) -> None:
    file = tmp_path / "file"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "new \ud800")
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


def test_only_one_holds_the_home(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    with home.lock(), pytest.raises(CommandError, match="already running"), home.lock():
        pass
    with home.lock():
        pass
