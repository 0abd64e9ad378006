"""The SendGrid provider against Prism, a mock server by others that holds requests to the OpenAPI document.

Needs Node and Prism 5 in npm's cache (`npx --yes @stoplight/prism-cli@5 --version` puts it there): the suite itself
loads nothing from the network.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from models.enums import Outcome
from models.requests import Options
from streams.providers.sendgrid import SendGridProvider
from tests.contracts.deliveries import API_KEY, PAYLOADS, email_delivery, email_options, settings

_PRISM = ("npx", "--yes", "--offline", "@stoplight/prism-cli@5")
_START_SECONDS = 30


def prism_is_here() -> bool:
    if shutil.which("npx") is None:
        return False
    return subprocess.run([*_PRISM, "--version"], capture_output=True, check=False, timeout=60).returncode == 0


def document(folder: Path) -> Path:
    """Prism serves paths without the `/v3` of the server's URL, so it is written into the path."""
    contents = json.loads((PAYLOADS / "sendgrid" / "mail_send_openapi.json").read_text())
    contents["paths"] = {f"/v3{path}": operations for path, operations in contents["paths"].items()}
    target = folder / "openapi.json"
    target.write_text(json.dumps(contents))
    return target


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def listening(port: int) -> None:
    async with asyncio.timeout(_START_SECONDS):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.1)
            else:
                writer.close()
                return


@pytest.fixture(scope="module")
async def provider(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[SendGridProvider]:
    if not prism_is_here():
        pytest.skip("PRISM IS MISSING: SendGrid's contract is checked by jsonschema only; see this file's docstring")
    port = free_port()
    command = (*_PRISM, "mock", "-h", "127.0.0.1", "-p", str(port), "--errors")
    process = subprocess.Popen(
        [*command, str(document(tmp_path_factory.mktemp("prism")))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        await listening(port)
        provider = SendGridProvider(settings(sendgrid_api_key=API_KEY, sendgrid_base_url=f"http://127.0.0.1:{port}"))
        yield provider
        await provider.close()
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


async def test_an_ordinary_message_is_taken(provider: SendGridProvider) -> None:
    assert (await provider.send(email_delivery())).outcome is Outcome.SENT


async def test_a_message_with_everything_is_taken(provider: SendGridProvider) -> None:
    options = email_options(
        from_="Acme <news@acme.example>",
        reply_to="help@acme.example",
        cc=("boss@example.com",),
        headers={"X-Campaign": "q4"},
        tags=("invoice", "q4"),
    ).model_copy(update={"provider": {"asm": {"group_id": 7}, "mail_settings": {"sandbox_mode": {"enable": True}}}})
    assert (await provider.send(email_delivery(options=options))).outcome is Outcome.SENT


async def test_what_breaks_the_schema_is_permanent(provider: SendGridProvider) -> None:
    bad = Options(provider={"asm": {"groups_to_display": "none"}})
    assert (await provider.send(email_delivery(options=bad))).outcome is Outcome.PERMANENT
