"""The yardstick of the intake: a bare FastAPI endpoint that validates the same body and hands it to Kafka.

No identity, no row, no checks, no repeats. The server's settings are those of the service's own API.

    python -m bench.bare_api --bootstrap HOST:PORT --port 8091
"""

from __future__ import annotations

import argparse
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

import uvicorn
from aiokafka import AIOKafkaProducer
from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from cli.heap import calm_collector

TOPIC = "bench.intake"


class Recipient(BaseModel):
    """Where it goes."""

    email: str | None = None
    phone: str | None = None


class Asked(BaseModel):
    """The fields of a request, with their types and no more."""

    id: uuid.UUID | None = None
    user_id: str = Field(min_length=1, max_length=255)
    channel: Literal["email", "sms", "push", "in_app"] | None = None
    channels: list[Literal["email", "sms", "push", "in_app"]] | None = None
    template_id: str | None = None
    content: dict[str, str] | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    category: str = "general"
    priority: Literal["high", "normal", "low"] | None = None
    recipient: Recipient = Recipient()
    metadata: dict[str, str] = Field(default_factory=dict)


class Answer(BaseModel):
    """What the caller is told."""

    notification_id: uuid.UUID
    status: str
    status_url: str


def create_app(bootstrap: str) -> FastAPI:
    """The endpoint."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=0)
        await producer.start()
        app.state.producer = producer
        calm_collector()
        yield
        await producer.stop()

    app = FastAPI(lifespan=lifespan)

    @app.post("/api/v1/notifications", status_code=202)
    async def send(asked: Asked, request: Request) -> Answer:
        known_as = asked.id or uuid.uuid4()
        value = asked.model_dump_json(exclude_unset=True).encode()
        await request.app.state.producer.send_and_wait(TOPIC, value, key=asked.user_id.encode())
        return Answer(notification_id=known_as, status="accepted", status_url=f"/api/v1/notifications/{known_as}")

    return app


def main() -> None:
    """Serves until the process is told to end."""
    parser = argparse.ArgumentParser(description="A bare FastAPI and aiokafka endpoint.")
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--port", type=int, required=True)
    wanted = parser.parse_args()
    uvicorn.run(
        create_app(wanted.bootstrap),
        host="127.0.0.1",
        port=wanted.port,
        loop="uvloop",
        http="httptools",
        ws="none",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=2048,
    )


if __name__ == "__main__":
    main()
