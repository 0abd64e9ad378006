"""FCM's HTTP v1 API as Google's own discovery document describes it, and the token endpoint of a service account.

The document comes with PyPI's `google-api-python-client`; each request is validated against its schemas.
"""

from __future__ import annotations

import asyncio
import importlib.resources
import json
import re
import ssl
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from jsonschema import Draft202012Validator

from tests.contracts.deliveries import FCM_TOKEN, SUBJECT

PROJECT = "acme-push"
#: What Google's library states, wherever it asks.
_AUDIENCE = "https://oauth2.googleapis.com/token"
_SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
_DOCUMENTS = importlib.resources.files("googleapiclient") / "discovery_cache" / "documents"
_SCHEMAS: dict[str, Any] = json.loads((_DOCUMENTS / "fcm.v1.json").read_text())["schemas"]
FCM_ERROR = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def _strict(schema: Any) -> Any:
    """The document's schema as JSON Schema: unknown keys are refused."""
    if isinstance(schema, list):
        return [_strict(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return {"$ref": f"#/$defs/{schema['$ref']}"}
    kept = {key: schema[key] for key in ("type", "enum", "format") if key in schema and schema[key] != "any"}
    if "properties" in schema:
        kept["properties"] = {name: _strict(each) for name, each in schema["properties"].items()}
        kept["additionalProperties"] = False
    if "items" in schema:
        kept["items"] = _strict(schema["items"])
    if isinstance(schema.get("additionalProperties"), dict):
        kept["additionalProperties"] = _strict(schema["additionalProperties"])
    return kept


_VALIDATOR = Draft202012Validator(
    {"$ref": "#/$defs/SendMessageRequest", "$defs": {name: _strict(each) for name, each in _SCHEMAS.items()}}
)


def _camel(value: Any, schema: Any) -> Any:
    """The JSON of protocol buffers takes both spellings of a field's name; the keys of maps stay as they are."""
    if isinstance(schema, dict) and "$ref" in schema:
        schema = _SCHEMAS[schema["$ref"]]
    if isinstance(value, list):
        return [_camel(each, schema.get("items", {})) for each in value]
    if not isinstance(value, dict) or "properties" not in schema:
        return value
    known = schema["properties"]
    named = {re.sub("_([a-z])", lambda match: match[1].upper(), name): each for name, each in value.items()}
    return {name: _camel(each, known.get(name, {})) for name, each in named.items()}


def complaints(body: Any) -> list[str]:
    """What the discovery document has against a request."""
    named = _camel(body, _SCHEMAS["SendMessageRequest"])
    found = [f"{error.json_path}: {error.message}" for error in _VALIDATOR.iter_errors(named)]
    targets = {"token", "fid", "topic", "condition"} & set(named.get("message", {}))
    return found + ([] if len(targets) == 1 else [f"not one target: {targets}"])


def error(status: int, name: str, code: str | None = None, message: str = "refused") -> dict[str, Any]:
    """An answer in Google's format; it repeats what was sent, as vendors do."""
    details = [{"@type": FCM_ERROR, "errorCode": code}] if code else []
    text = f"{message} {FCM_TOKEN} {SUBJECT}"
    return {"error": {"code": status, "message": text, "status": name, "details": details}}


def violation(field: str) -> dict[str, Any]:
    """An answer that names the field that is wrong."""
    found = error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Request contains an invalid argument.")
    found["error"]["details"].append(
        {
            "@type": "type.googleapis.com/google.rpc.BadRequest",
            "fieldViolations": [{"field": field, "description": "?"}],
        }
    )
    return found


#: Answers by name.
ANSWERS: dict[str, tuple[int, Any]] = {
    "INVALID_ARGUMENT": (400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Invalid value at 'message.data'")),
    "bad token": (
        400,
        error(
            400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "The registration token is not a valid FCM registration token"
        ),
    ),
    "token violated": (400, violation("message.token")),
    "data violated": (400, violation("message.data[0].value")),
    "too big": (400, error(400, "INVALID_ARGUMENT", "INVALID_ARGUMENT", "Message too big")),
    "no code": (400, error(400, "INVALID_ARGUMENT", None, "Invalid registration token")),
    "UNREGISTERED": (404, error(404, "NOT_FOUND", "UNREGISTERED")),
    "SENDER_ID_MISMATCH": (403, error(403, "PERMISSION_DENIED", "SENDER_ID_MISMATCH")),
    "QUOTA_EXCEEDED": (429, error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED")),
    "device quota": (429, error(429, "RESOURCE_EXHAUSTED", "QUOTA_EXCEEDED", "Device message rate exceeded.")),
    "UNAVAILABLE": (503, error(503, "UNAVAILABLE", "UNAVAILABLE")),
    "INTERNAL": (500, error(500, "INTERNAL", "INTERNAL")),
    "THIRD_PARTY_AUTH_ERROR": (401, error(401, "UNAUTHENTICATED", "THIRD_PARTY_AUTH_ERROR")),
    "UNAUTHENTICATED": (401, error(401, "UNAUTHENTICATED")),
    "PERMISSION_DENIED": (403, error(403, "PERMISSION_DENIED")),
    "NOT_FOUND": (404, error(404, "NOT_FOUND")),
    "html": (502, "<html>Bad Gateway</html>"),
    "html 404": (404, "<html>Not found</html>"),
    "odd": (400, [1, 2]),
}


class FcmServer:
    """Both on loopback. `fault` is `hang`, `reset`, `cut_body`, or nothing."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        #: Answers for single devices, by their tokens.
        self.answers: dict[str, str] = {}
        self.tokens_given = 0
        self.good_token = ""
        self.token_status, self.token_fault, self.token_seconds = 200, "", 3600
        self.behave()
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        app = web.Application()
        app.router.add_post(f"/v1/projects/{PROJECT}/messages:send", self._send)
        app.router.add_post("/token", self._token)
        self._tls = tls
        self._server = TestServer(app, host="127.0.0.1", scheme="https" if tls else "http")

    async def start(self) -> None:
        """Listens on a free port."""
        await self._server.start_server(ssl=self._tls)
        self.url = f"{self._server.scheme}://127.0.0.1:{self._server.port}"

    async def stop(self) -> None:
        """Goes away."""
        await self._server.close()

    @property
    def account(self) -> str:
        """The JSON of the service account."""
        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return json.dumps(
            {
                "type": "service_account",
                "project_id": PROJECT,
                "private_key_id": "k1",
                "private_key": key.decode(),
                "client_email": f"push@{PROJECT}.iam.gserviceaccount.com",
                "token_uri": f"{self.url}/token",
            }
        )

    def taken(self) -> list[str]:
        """Delivery ids, from the data."""
        return [body["message"]["data"]["delivery_id"] for body in self.bodies]

    def behave(self) -> None:
        """Takes messages."""
        self.status, self.answer, self.headers, self.fault = 200, None, {}, ""

    def misbehave(self, how: str) -> None:
        """One of `ANSWERS`, a status, or a fault."""
        if how in ANSWERS:
            self.status, self.answer = ANSWERS[how]
        elif how.isdecimal():
            self.status, self.answer = int(how), {}
        else:
            self.fault = how

    def revoke(self) -> None:
        """The token given out last is good no longer."""
        self.good_token = ""

    async def _token(self, request: web.Request) -> web.StreamResponse:
        form = await request.post()
        claims = jwt.decode(str(form["assertion"]), self._key.public_key(), algorithms=["RS256"], audience=_AUDIENCE)
        assert claims["scope"] == _SCOPE
        if self.token_fault == "hang":
            await asyncio.sleep(3600)
        if self.token_status != 200:
            return web.json_response({"error": "invalid_grant"}, status=self.token_status)
        self.tokens_given += 1
        self.good_token = f"ya29.{self.tokens_given}"
        answer = {"access_token": self.good_token, "expires_in": self.token_seconds, "token_type": "Bearer"}
        return web.json_response(answer)

    async def _send(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.complaints += complaints(body)
        if request.headers.get("Authorization") != f"Bearer {self.good_token}":
            return web.json_response(ANSWERS["UNAUTHENTICATED"][1], status=401)
        if (how := self.answers.get(body["message"].get("token", ""))) is not None:
            return web.json_response(ANSWERS[how][1], status=ANSWERS[how][0])
        if self.fault:
            await self._fail(request)
        if isinstance(self.answer, str):
            return web.Response(text=self.answer, status=self.status, content_type="text/html", headers=self.headers)
        if self.status != 200:
            return web.json_response(self.answer, status=self.status, headers=self.headers)
        self.bodies.append(body)
        if self.answer is not None:
            return web.json_response(self.answer)
        return web.json_response({"name": f"projects/{PROJECT}/messages/0:{len(self.bodies)}"})

    async def _fail(self, request: web.Request) -> None:
        assert request.transport is not None
        if self.fault == "hang":
            await asyncio.sleep(3600)
        if self.fault == "cut_body":
            request.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        request.transport.close()
        raise web.HTTPInternalServerError
