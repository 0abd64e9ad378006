"""The docs are true: links lead somewhere, and commands, settings, metrics, tables and topics they name exist."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from cli.main import COMMANDS, app
from models.base import Table
from models.settings import RetryPolicy, Settings
from streams.topics import CATALOGUE

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
    if not page.is_symlink()
)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
pages = pytest.mark.parametrize("page", PAGES, ids=NAMES)

#: In the environment of commands, tests and Kafka's tools; no fields of Settings.
OTHER_VARIABLES = {"COMMS_HOME", "COMMS_TOKEN", "COMMS_TEST_HOME", "WORKERS"} | {
    # As AWS's own libraries know them.
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
}
#: Capital words in code spans that are no variables.
NO_VARIABLES = {
    "ADDRESS",
    "CHANGELOG",
    "CONTRIBUTING",
    "DEBUG",
    "DESIGN",
    "ERROR",
    "FROM",
    "GET",
    "ID",
    "INFO",
    "INSERT",
    "INTERNAL",
    "INVALID_ARGUMENT",
    "NORMAL",
    "PATH",
    "PLAIN",
    "PLAINTEXT",
    "POST",
    "PROJECT",
    "QUOTA_EXCEEDED",
    "README",
    "REFUSED_STREAM",
    "SASL_PLAINTEXT",
    "SASL_SSL",
    "SENDER_ID_MISMATCH",
    "SSL",
    "THIRD_PARTY_AUTH_ERROR",
    "TOKEN",
    "TTL",
    "UNAVAILABLE",
    "UNREGISTERED",
    "UPDATE",
    "VALUES",
    "WARNING",
    "WHERE",
}


def slug(heading: str) -> str:
    """The anchor of a heading, as GitHub makes it."""
    text = re.sub(r"`|\[([^]]*)]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    return {slug(line.lstrip("#")) for line in page.read_text().splitlines() if line.startswith("#")}


def code(page: Path) -> str:
    """All that stands in code spans and blocks."""
    text = page.read_text()
    blocks = re.findall(r"```\w*\n(.*?)```", text, flags=re.DOTALL)
    spans = re.findall(r"`([^`\n]+(?:\n[^`\n]+)?)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    return "\n".join([*blocks, *spans])


@pages
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{target} in {page.name}"
        if anchor:
            assert anchor in anchors(linked), f"{target} in {page.name}"


def subcommands() -> dict[str, set[str]]:
    """The commands that are groups, with what is in them."""
    found = {}
    for name in COMMANDS:
        group = getattr(importlib.import_module(f"cli.commands.{name}"), "app", None)
        if isinstance(group, typer.Typer):
            found[name] = {str(command.name or command.callback.__name__) for command in group.registered_commands}
    return found


@pages
def test_commands_exist(page: Path) -> None:
    groups = subcommands()
    for command, following in re.findall(r"(?:^|[\s`(/])comms ([a-z]+)(?: ([a-z]+))?", code(page), flags=re.MULTILINE):
        assert command in COMMANDS, f"comms {command}"
        if command in groups and following:
            assert following in groups[command], f"comms {command} {following}"


def test_the_readme_has_every_command() -> None:
    readme = code(ROOT / "README.md")
    for command in COMMANDS:
        assert f"comms {command}" in readme


def options_of(command: str) -> set[str]:
    """All options of a command, those of its subcommands too."""
    found = typer.main.get_command(app).get_command(None, command)  # type: ignore[attr-defined]
    parts: list[Any] = [found, *getattr(found, "commands", {}).values()]
    return {option for part in parts for parameter in part.params for option in parameter.opts} | {
        option for part in parts for parameter in part.params for option in parameter.secondary_opts
    }


@pages
def test_options_exist(page: Path) -> None:
    for line in code(page).replace("\\\n", " ").splitlines():
        found = re.search(r"(?:^|[\s/(])comms ([a-z]+)(.*)", line)
        if found is None or found[1] not in COMMANDS:
            continue
        rest = re.split(r"[|;)]|\s#\s", re.sub(r"'[^']*'|\"[^\"]*\"", "''", found[2]))[0]
        given = {word for word in shlex.split(rest) if re.fullmatch(r"--[a-z-]+", word)}
        assert given <= options_of(found[1]) | {"--help"}, line


def settings() -> set[str]:
    names = {name.upper() for name in Settings.model_fields}
    retries = {name for name in names if name.endswith("_RETRY")}
    return (names - retries) | {f"{name}__{field.upper()}" for name in retries for field in RetryPolicy.model_fields}


@pages
def test_settings_exist(page: Path) -> None:
    text = re.sub(r"```sql.*?```", "", page.read_text(), flags=re.DOTALL)
    spans = re.findall(r"`([A-Z][A-Z0-9_]+(?:__[A-Z_]+)?)(?:=[^`]*)?`", text)
    unknown = set(spans) - settings() - OTHER_VARIABLES - NO_VARIABLES
    assert unknown == set()


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/deployment/configuration.md").read_text()
    documented = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", text))
    others = {name for name in settings() if re.match(r"(SMS|PUSH|IN_APP)_RETRY__", name)}  # "likewise"
    assert settings() - others - documented == set()


def test_documented_defaults_are_the_defaults() -> None:
    text = (ROOT / "docs/deployment/configuration.md").read_text()
    checked = 0
    for names, default in re.findall(r"^\| (`[A-Z_`, ]+`) \| (`[^`]+`) \|", text, flags=re.MULTILINE):
        field = Settings.model_fields.get(names.strip("`").lower())
        if field is None:
            continue
        value = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        assert default == f"`{shown}`", names
        checked += 1
    assert checked > 25
    assert f"`EMAIL_RETRY__MAX_ATTEMPTS` | `{RetryPolicy().max_attempts}`" in text


@pages
def test_topics_exist(page: Path) -> None:
    named = re.findall(r"`((?:notification\.|user\.|conversation\.|provider\.)[a-z_.0-9{},*<>]+)`", page.read_text())
    for name in named:
        pattern = re.sub(r"<\w+>|{[a-z0-9,_]+}|\*", "PLACE", name)
        expression = re.escape(pattern).replace("PLACE", ".+")
        assert any(re.fullmatch(expression, topic) for topic in CATALOGUE), name


@pages
def test_metrics_exist(page: Path) -> None:
    from prometheus_client import REGISTRY

    for module in ("api.metrics", "streams.metrics"):  # They register what they count.
        importlib.import_module(module)
    known = {f"{family.name}{suffix}" for family in REGISTRY.collect() for suffix in ("", "_total")}
    assert set(re.findall(r"`(comms_[a-z_]+)", page.read_text())) <= known


def test_tables_of_the_runbook_exist() -> None:
    importlib.import_module("models.tables")
    text = (ROOT / "docs/runbook.md").read_text()
    named = re.findall(r"\bFROM (\w+)", text)
    assert len(named) > 2
    assert set(named) <= set(Table.metadata.tables)


@pages
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:^|[\s`])make ([a-z]+)", code(page), flags=re.MULTILINE)) <= targets


@pages
def test_nothing_of_one_machine_is_named(page: Path) -> None:
    assert not re.search(r"/(?:home|root|Users|tmp|work)/\w", page.read_text())


def test_compose_and_docs_agree_on_ports() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.kafka.yml").read_text())["services"]
    text = (ROOT / "docs/deployment/README.md").read_text()
    for service, port in (("kafka", 9094), ("api", 8002), ("mail", 8025)):
        assert services[service]["ports"][0].split(":")[1] == str(port)
        assert f"localhost:{port}" in text
