"""The yardstick: one hop of a delivery's I/O by aiokafka alone, written the plain fast way.

Consumes in batches of 500, commits after each. A batch is: decode, one bulk read of contacts and preferences, one Lua
call for all its tokens, render (with the project's own renderer), one bulk insert as the claim, a POST to the provider
for each, one bulk update with the outcomes, one event produced for each. No lanes, no order within a user, no retries,
no answer to anything that fails: what a service must add to this is what the ratio to it shows.

    python -m bench.raw_worker --bootstrap HOST:PORT --database URL --redis URL --provider URL
"""

from __future__ import annotations

import argparse
import asyncio
import signal
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
import uvloop
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis

from models.enums import Channel
from models.ids import delivery_id
from streams.domain.templates import Renderer

TOPIC = "bench.raw"
EVENTS = "bench.raw.events"
GROUP = "bench-raw"
BATCH = 500
CALLS_IN_FLIGHT = 250

TABLE = """
CREATE TABLE IF NOT EXISTS bench_raw (
    delivery_id uuid PRIMARY KEY, notification_id uuid NOT NULL, claimed_at timestamptz NOT NULL,
    status text NOT NULL, provider_message_id text, finished_at timestamptz
) WITH (fillfactor = 80)
"""
_PEOPLE = """
SELECT COALESCE(c.user_id, p.user_id) AS user_id, c.email, p.channels, p.categories
FROM (SELECT * FROM contacts WHERE user_id = ANY($1)) AS c
FULL JOIN (SELECT * FROM notification_preferences WHERE user_id = ANY($1)) AS p ON p.user_id = c.user_id
"""
_CLAIM = """
INSERT INTO bench_raw (delivery_id, notification_id, claimed_at, status)
SELECT d, n, now(), 'sending' FROM unnest($1::uuid[], $2::uuid[]) AS g(d, n) ON CONFLICT DO NOTHING
"""
_FINISH = """
UPDATE bench_raw AS r SET status = 'sent', provider_message_id = g.message, finished_at = now()
FROM unnest($1::uuid[], $2::text[]) AS g(d, message) WHERE r.delivery_id = g.d
"""
_TOKENS = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = math.min(100000, (tonumber(state[1]) or 100000) + (now - (tonumber(state[2]) or now)) * 100000)
local granted = math.min(tokens, tonumber(ARGV[1]))
redis.call('HSET', KEYS[1], 'tokens', tokens - granted, 'at', now)
return math.floor(granted)
"""


@dataclass(frozen=True, slots=True)
class Message:
    """A request, decoded, and what it says to the person."""

    notification_id: UUID
    delivery_id: UUID
    user_id: str
    to: str
    content: dict[str, str]


class RawWorker:
    """Does batches. One for a process."""

    def __init__(
        self,
        *,
        producer: AIOKafkaProducer,
        pool: asyncpg.Pool,
        redis: Redis,
        session: aiohttp.ClientSession,
        provider_url: str,
    ) -> None:
        self._producer = producer
        self._pool = pool
        self._take = redis.register_script(_TOKENS)
        self._session = session
        self._url = f"{provider_url}/v3/mail/send"
        self._renderer = Renderer()
        self._slots = asyncio.Semaphore(CALLS_IN_FLIGHT)

    async def batch(self, values: Sequence[bytes]) -> None:
        """One batch from its bytes to its acknowledged events."""
        asked = [orjson.loads(value) for value in values]
        people = await self._people([one["user_id"] for one in asked])
        await self._take(keys=["bench:raw"], args=[len(asked)])
        messages = [self._message(one, people) for one in asked]
        ids = [message.delivery_id for message in messages]
        await self._pool.execute(_CLAIM, ids, [message.notification_id for message in messages])
        answers = await asyncio.gather(*(self._post(message) for message in messages))
        await self._pool.execute(_FINISH, ids, answers)
        await self._tell(messages, answers)

    async def _people(self, users: list[str]) -> dict[str, Any]:
        return {row["user_id"]: row for row in await self._pool.fetch(_PEOPLE, users)}

    def _message(self, one: dict[str, Any], people: dict[str, Any]) -> Message:
        person = people.get(one["user_id"])
        to = one.get("recipient", {}).get("email") or (person["email"] if person else "")
        notification_id = UUID(one["id"])
        content = self._renderer.render("email", one["content"], one["data"])
        return Message(notification_id, delivery_id(notification_id, Channel.EMAIL), one["user_id"], to, content)

    async def _post(self, message: Message) -> str:
        body = {
            "from": {"email": "notifications@example.com"},
            "subject": message.content["subject"],
            "personalizations": [
                {"to": [{"email": message.to}], "custom_args": {"delivery_id": str(message.delivery_id)}}
            ],
            "content": [
                {"type": "text/plain", "value": message.content["text"]},
                {"type": "text/html", "value": message.content["html"]},
            ],
        }
        async with self._slots, self._session.post(self._url, data=orjson.dumps(body)) as response:
            await response.read()
            response.raise_for_status()
            return response.headers["X-Message-Id"]

    async def _tell(self, messages: Sequence[Message], answers: Sequence[str]) -> None:
        sent = []
        for message, answer in zip(messages, answers, strict=True):
            event = {
                "notification_id": message.notification_id,
                "user_id": message.user_id,
                "channel": "email",
                "provider_message_id": answer,
            }
            sent.append(await self._producer.send(EVENTS, orjson.dumps(event), key=message.user_id.encode()))
        await asyncio.gather(*sent)


async def run(*, bootstrap: str, database: str, redis: str, provider: str) -> None:
    """Works until the process is told to end."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        producer = AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", enable_idempotence=True, linger_ms=5)
        await producer.start()
        stack.push_async_callback(producer.stop)
        pool = await stack.enter_async_context(asyncpg.create_pool(database, min_size=1, max_size=2))
        client: Redis = Redis.from_url(redis)
        stack.push_async_callback(client.aclose)
        connector = aiohttp.TCPConnector(limit=0)
        headers = {"Authorization": "Bearer for-the-sink", "Content-Type": "application/json"}
        session = await stack.enter_async_context(aiohttp.ClientSession(connector=connector, headers=headers))
        worker = RawWorker(producer=producer, pool=pool, redis=client, session=session, provider_url=provider)
        consumer = AIOKafkaConsumer(
            TOPIC,
            bootstrap_servers=bootstrap,
            group_id=GROUP,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            max_poll_records=BATCH,
        )
        await consumer.start()
        stack.push_async_callback(consumer.stop)
        while not stop.is_set():
            found = await consumer.getmany(timeout_ms=100, max_records=BATCH)
            if found:
                await worker.batch([record.value for records in found.values() for record in records])
                await consumer.commit()


def main() -> None:
    """Runs with uvloop, as the service's workers do."""
    parser = argparse.ArgumentParser(description="One hop of the same I/O by aiokafka alone.")
    for name in ("bootstrap", "database", "redis", "provider"):
        parser.add_argument(f"--{name}", required=True)
    uvloop.run(run(**vars(parser.parse_args())))


if __name__ == "__main__":
    main()
