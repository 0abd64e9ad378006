"""APNs on Node's HTTP/2 server (`apns_server.js`): started here, told how to misbehave over a port of its own."""

from __future__ import annotations

import http.client
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_SCRIPT = Path(__file__).with_name("apns_server.js")
KEY_ID, TEAM_ID, TOPIC = "ABC123DEFG", "DEF123GHIJ", "com.acme.app"

#: Apple's answers by name, as in `410 Unregistered`.
_FAULTS = ("hang", "refused", "reset", "drop", "cut", "html", "goaway")


class ApnsServer:
    """A process of its own. Needs Node and nothing else."""

    def __init__(self, folder: Path, *, tls: dict[str, str] | None = None, **config: Any) -> None:
        node = shutil.which("node")
        if node is None:
            pytest.skip("NODE IS MISSING: APNs is not tested against an HTTP/2 server by others")
        key = ec.generate_private_key(ec.SECP256R1())
        self.key_path = folder / "AuthKey.p8"
        self.key_path.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        public = key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        given = {"publicKey": public.decode(), "keyId": KEY_ID, "teamId": TEAM_ID, "tls": tls, **config}
        self._process = subprocess.Popen(
            [node, str(_SCRIPT), json.dumps(given)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ports = json.loads(self._process.stdout.readline())
        self.port: int = ports["port"]
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"
        self._control = http.client.HTTPConnection("127.0.0.1", ports["control"], timeout=10)

    def ask(self, method: str = "GET", body: dict[str, Any] | None = None) -> dict[str, Any]:
        """What it has seen so far."""
        self._control.request(method, "/", json.dumps(body or {}))
        found: dict[str, Any] = json.loads(self._control.getresponse().read())
        return found

    @property
    def messages(self) -> list[dict[str, Any]]:
        """What it took: token, headers, payload."""
        found: list[dict[str, Any]] = self.ask()["taken"]
        return found

    def taken(self) -> list[str]:
        """Delivery ids, from the payloads."""
        return [message["payload"]["delivery_id"] for message in self.messages]

    def misbehave(self, how: str) -> None:
        """A fault, or an answer such as `410 Unregistered`."""
        if how in _FAULTS:
            self.ask("PUT", {"fault": how})
        else:
            status, _, reason = how.partition(" ")
            self.answer(int(status), {"reason": reason} if reason else None)

    def answer(self, status: int, body: dict[str, Any] | None, headers: dict[str, str] | None = None) -> None:
        """Gives this answer from now on."""
        self.ask("PUT", {"status": status, "body": body, "headers": headers or {}})

    def expire_tokens(self, count: int) -> None:
        """The first so many provider tokens are refused for their age."""
        self.ask("PUT", {"expired": count})

    def behave(self) -> None:
        """Takes messages again."""
        self.ask("PUT", {})

    async def stop(self) -> None:
        """Goes away: connections are refused."""
        self.ask("DELETE")

    def end(self) -> None:
        """Ends the process."""
        self._control.close()
        self._process.communicate(timeout=10)
