# ruff: noqa: T201  an example prints
"""Publishes one notification request straight to Kafka, as any service would.

    KAFKA_BOOTSTRAP_SERVERS=localhost:9094 python examples/publish.py ada@example.com

Needs only `aiokafka`. The id it prints goes into `comms status ID`.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import uuid

from aiokafka import AIOKafkaProducer

TOPIC = os.environ.get("KAFKA_TOPIC_PREFIX", "") + "notification.requests.normal"


async def publish(request: dict[str, object]) -> None:
    """Returns when the record is safe on all in-sync replicas: from then on it ends in a final state."""
    producer = AIOKafkaProducer(
        bootstrap_servers=os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9094"),
        acks="all",
        enable_idempotence=True,
    )
    await producer.start()
    try:
        await producer.send_and_wait(
            TOPIC,
            json.dumps(request).encode(),
            key=str(request["user_id"]).encode(),  # One user's requests stay in order.
            headers=[("client-id", b"example"), ("content-type", b"application/json")],
        )
    finally:
        await producer.stop()


def main() -> None:
    """Asks for one e-mail with inline content."""
    address = sys.argv[1] if len(sys.argv) > 1 else "ada@example.com"
    notification_id = str(uuid.uuid4())
    request: dict[str, object] = {
        "id": notification_id,
        "user_id": "ada",
        "channel": "email",
        "recipient": {"email": address},
        "content": {"subject": "Hello {{ name }}", "text": "This came straight from a Kafka topic."},
        "data": {"name": "Ada"},
        "metadata": {"source": "examples/publish.py"},
    }
    asyncio.run(publish(request))
    print(notification_id)


if __name__ == "__main__":
    main()
