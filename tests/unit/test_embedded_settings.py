"""What `comms up` takes from the environment, and what other commands take from `comms up`."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from cli import CommandError
from cli.embedded.application import number_setting, own_settings
from cli.embedded.home import Home
from cli.embedded.identity import sign, validate
from cli.embedded.stack import SERVERS
from cli.embedded.supervisor import backoff_seconds
from cli.main import running_stack

_KEY = "k" * 43


def _wanted(environment: dict[str, str]) -> set[str]:
    return {server.name for server in SERVERS if server.is_wanted(environment)}


def test_a_server_is_started_only_where_its_url_is_not_set() -> None:
    assert _wanted({}) == {"kafka", "postgres", "valkey", "identity", "mail"}
    assert _wanted({"KAFKA_BOOTSTRAP_SERVERS": "k:1", "DATABASE_URL": ""}) == {
        "postgres",
        "valkey",
        "identity",
        "mail",
    }
    assert "mail" not in _wanted({"SMTP_HOST": "mx"}) | _wanted({"EMAIL_PROVIDERS": "sendgrid"})
    assert not {"valkey", "identity"} & _wanted({"REDIS_URL": "r", "IDENTITY_SERVICE_URL": "i"})


@pytest.mark.parametrize("text", ["0", "65", "-1", "1.5", "two", "²"])
def test_a_wrong_number_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(CommandError, match=r"^WORKERS must be a whole number from 1 to 64$"):
        number_setting({"WORKERS": text}, "WORKERS", 1, low=1, high=64)


def test_a_number_that_is_not_set_is_the_default() -> None:
    assert number_setting({}, "WORKERS", 1, low=1, high=64) == 1
    assert number_setting({"WORKERS": ""}, "WORKERS", 1, low=1, high=64) == 1
    assert number_setting({"WORKERS": "8"}, "WORKERS", 1, low=1, high=64) == 8


def test_links_lead_to_loopback_unless_the_environment_says_where(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    assert own_settings(home, {}, 8002)["PUBLIC_URL"] == "http://127.0.0.1:8002"
    assert own_settings(home, {"HOST": "0.0.0.0"}, 8002)["PUBLIC_URL"] == "http://127.0.0.1:8002"
    assert own_settings(home, {"PUBLIC_URL": "https://a.test"}, 8002)["PUBLIC_URL"] == "https://a.test"


def test_the_key_that_signs_links_is_kept(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    assert own_settings(home, {}, 1)["SECRET_KEY"] == own_settings(home, {}, 1)["SECRET_KEY"]
    assert own_settings(home, {"SECRET_KEY": "given"}, 1)["SECRET_KEY"] == "given"


def test_other_commands_find_the_running_stack_wholly_or_not_at_all(tmp_path: Path) -> None:
    home = Home.open(tmp_path)
    home.write_env({"DATABASE_URL": "ours", "REDIS_URL": "ours", "PORT": "8002"})
    assert running_stack({"PORT": "9000"}, home) == {"DATABASE_URL": "ours", "REDIS_URL": "ours"}
    assert running_stack({"REDIS_URL": "theirs"}, home) == {}


def test_waits_grow_to_five_seconds() -> None:
    assert [backoff_seconds(failures) for failures in range(1, 9)] == [0, 0.5, 1, 2, 4, 5, 5, 5]


def test_a_token_is_valid_for_its_time_and_its_key() -> None:
    token = sign(_KEY, user_id="ann", roles=["user"], ttl=timedelta(minutes=1))
    answer = validate(_KEY, f"Bearer {token}")
    assert answer is not None
    assert (answer["valid"], answer["user_id"], answer["roles"]) == (True, "ann", ["user"])
    assert validate("x" * 43, f"Bearer {token}") is None
    over = sign(_KEY, user_id="ann", roles=["user"], ttl=timedelta(seconds=-1))
    assert validate(_KEY, f"Bearer {over}") is None
    assert validate(_KEY, f"Basic {token}") is None
