"""Load: requests over Kafka and HTTP at a pace, and a note of each that was acknowledged."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import httpx
import orjson
from aiokafka import AIOKafkaProducer

from bench.system import System
from models.enums import Channel
from models.ids import delivery_id


def email_request(number: int, *, users: int = 5000) -> dict[str, Any]:
    """An ordinary e-mail: inline content with a loop and a conditional, text and HTML."""
    user = f"user-{number % users}"
    return {
        "id": str(uuid.uuid4()),
        "user_id": user,
        "channel": "email",
        "recipient": {"email": f"{user}@example.com"},
        "content": {
            "subject": "Your order {{ order.id }}",
            "text": "Hello {{ name }}, your order {{ order.id }} is on its way.",
            "html": "<h1>Hello {{ name }}</h1><ul>{% for line in order.lines %}<li>{{ line }}</li>{% endfor %}</ul>"
            "{% if order.gift %}<p>It is a gift.</p>{% endif %}",
        },
        "data": {"name": "Ada", "order": {"id": number, "lines": ["Tea", "Cups"], "gift": number % 2 == 0}},
    }


def in_app_request(number: int, *, users: int = 5000) -> dict[str, Any]:
    """An ordinary in-app message."""
    return {
        "id": str(uuid.uuid4()),
        "user_id": f"user-{number % users}",
        "channel": "in_app",
        "content": {"title": "Order {{ order.id }}", "body": "Hello {{ name }}, it is on its way."},
        "data": {"name": "Ada", "order": {"id": number}},
    }


#: Makes the request with this number.
Makes = Callable[[int], dict[str, Any]]


@dataclass
class Acknowledged:
    """Ids that the service or Kafka has taken responsibility for, with the time each was published."""

    at: dict[UUID, float] = field(default_factory=dict)
    refused: int = 0

    def deliveries(self, channel: Channel = Channel.EMAIL) -> dict[str, float]:
        """Publish time by the id of its delivery on the channel, as the sink knows it."""
        return {str(delivery_id(notification, channel)): at for notification, at in self.at.items()}


async def flood(
    system: System, count: int, *, priority: str, first: int = 0, topic: str | None = None, users: int = 5000
) -> Acknowledged:
    """Publishes e-mails to Kafka as fast as it goes: to the priority's topic, or another."""
    noted = Acknowledged()
    async with _producer(system) as producer:
        pending = []
        for request in (email_request(number, users=users) for number in range(first, first + count)):
            noted.at[UUID(request["id"])] = time.time()
            pending.append(await _send(producer, request, topic or f"notification.requests.{priority}"))
        await asyncio.gather(*pending)
    return noted


async def paced(
    system: System,
    count: int,
    *,
    per_second: float,
    priority: str = "normal",
    http_share: float = 0.0,
    make: Makes = email_request,
) -> Acknowledged:
    """Publishes at a pace, a part of it over HTTP; only what was acknowledged is noted."""
    noted = Acknowledged()
    limits = httpx.Limits(max_connections=50)
    async with _producer(system) as producer, httpx.AsyncClient(limits=limits, timeout=15) as client:
        tasks = []
        started = time.monotonic()
        for number in range(count):
            await asyncio.sleep(max(0.0, started + number / per_second - time.monotonic()))
            request = make(number)
            over_http = (number * http_share) % 1 + http_share >= 1
            work = (
                _post(client, system, request, priority, noted)
                if over_http
                else _publish(producer, request, priority, noted)
            )
            tasks.append(asyncio.create_task(work))
        await asyncio.gather(*tasks)
    return noted


async def _publish(producer: AIOKafkaProducer, request: dict[str, Any], priority: str, noted: Acknowledged) -> None:
    at = time.time()
    try:
        await (await _send(producer, request, f"notification.requests.{priority}"))
    except Exception:  # not acknowledged: nothing was promised
        noted.refused += 1
    else:
        noted.at[UUID(request["id"])] = at


async def _post(
    client: httpx.AsyncClient, system: System, request: dict[str, Any], priority: str, noted: Acknowledged
) -> None:
    at = time.time()
    try:
        answer = await client.post(
            f"{system.api_url}/notifications", json={**request, "priority": priority}, headers=system.headers()
        )
    except httpx.HTTPError:
        noted.refused += 1
        return
    if answer.status_code == httpx.codes.ACCEPTED:
        noted.at[UUID(request["id"])] = at
    else:
        noted.refused += 1


async def _send(producer: AIOKafkaProducer, request: dict[str, Any], topic: str) -> asyncio.Future[Any]:
    future: asyncio.Future[Any] = await producer.send(topic, orjson.dumps(request), key=request["user_id"].encode())
    return future


class _producer:  # noqa: N801  reads as a context manager
    def __init__(self, system: System) -> None:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=system.settings["KAFKA_BOOTSTRAP_SERVERS"],
            acks="all",
            enable_idempotence=True,
            linger_ms=5,
            request_timeout_ms=90_000,
        )

    async def __aenter__(self) -> AIOKafkaProducer:
        await self._producer.start()
        return self._producer

    async def __aexit__(self, *_: object) -> None:
        await self._producer.stop()


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of the values lies."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def chunks(count: int, size: int) -> Iterator[int]:
    """Sizes that add up to `count`."""
    while count > 0:
        yield min(size, count)
        count -= size
