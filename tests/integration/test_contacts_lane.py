"""The contact lane: what other services say of a person on `user.contacts`, and what a request makes of it."""

from __future__ import annotations

import asyncio
import random
import string
import uuid
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import orjson
import pytest

from models.enums import Channel
from streams.topics import CONTACTS, DEAD_LETTERS
from tests.fixtures.records import RawClient, Written, raw_client
from tests.fixtures.service import Ledger, Service, a_request

#: Does not compress, so that an index can't hold much of it.
NOISE = "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=9000))


@pytest.fixture(scope="module")
async def ledger() -> Ledger:
    return Ledger()


@pytest.fixture(scope="module")
async def raw(service: Service) -> AsyncIterator[RawClient]:
    async with raw_client(service.settings) as client:
        yield client


@pytest.fixture(scope="module", autouse=True)
async def worker(service: Service, ledger: Ledger) -> AsyncIterator[None]:
    only = {"contacts", "requests-normal", "send-email-normal"}
    async with service.worker(providers={Channel.EMAIL: (ledger,)}, only=only):
        yield


class Contacts:
    """Says things of one user on the topic, and waits until the lane has done with them."""

    def __init__(self, service: Service, raw: RawClient) -> None:
        self._service = service
        self._raw = raw
        self.user = f"u-{uuid.uuid4().hex[:8]}"

    async def say(self, *, key: bytes | None = b"", **fields: Any) -> Written:
        value = orjson.dumps({"user_id": self.user, **fields})
        return await self._raw.put(CONTACTS, value, key=self.user.encode() if key == b"" else key)

    async def remove(self, **more: Any) -> Written:
        return await self._raw.put(CONTACTS, None, key=self.user.encode(), **more)

    async def settled(self) -> None:
        """Waits until the lane has done with all that was said: a last word of somebody else comes behind it."""
        last = f"last-{uuid.uuid4().hex}"
        await self._raw.put(CONTACTS, orjson.dumps({"user_id": last}), key=last.encode())
        async with asyncio.timeout(10):
            while not await self._service.fetch("SELECT 1 FROM contacts WHERE user_id = :user", user=last):
                await asyncio.sleep(0.02)

    async def row(self) -> Any:
        await self.settled()
        rows = await self._service.fetch("SELECT * FROM contacts WHERE user_id = :user", user=self.user)
        return rows[0] if rows else None

    async def devices(self) -> set[str]:
        await self.settled()
        rows = await self._service.fetch("SELECT token FROM devices WHERE user_id = :user", user=self.user)
        return {row.token for row in rows}


@pytest.fixture
def contacts(service: Service, raw: RawClient) -> Contacts:
    return Contacts(service, raw)


async def dead(service: Service, raw: RawClient, written: Written) -> tuple[str, str]:
    """Class and reason of the one dead letter of a record, which lies where the index says, with the same bytes."""
    [row] = await service.fetch(
        "SELECT id, error_class, error_reason FROM delivery_failures WHERE source_topic = :topic"
        " AND source_partition = :partition AND source_offset = :offset",
        **vars(written),
    )
    source = (written.topic.encode(), str(written.partition).encode(), str(written.offset).encode())
    named = ("source-topic", "source-partition", "source-offset")
    letters = [
        letter
        for letter in await raw.read(DEAD_LETTERS)
        if tuple(dict(letter.headers)[name] for name in named) == source
    ]
    assert [f"{letter.partition}-{letter.offset}" for letter in letters] == [row.id]
    records = {(record.partition, record.offset): record for record in await raw.read(CONTACTS)}
    original = records[written.partition, written.offset]
    assert (letters[0].key, letters[0].value) == (original.key, original.value)
    return row.error_class, row.error_reason


async def test_a_request_goes_to_the_address_that_was_told(
    service: Service, ledger: Ledger, contacts: Contacts
) -> None:
    await contacts.say(email="Told@EXAMPLE.com", locale="de", name="Ada")
    assert (await contacts.row()).email == "Told@example.com"
    request = a_request(contacts.user)
    del request["recipient"]
    await service.publish(request)
    await service.until(UUID(request["id"]), "sent")
    [call] = ledger.of(UUID(request["id"]))
    assert (call.to, call.locale) == ("Told@example.com", "de")


async def test_an_older_statement_never_replaces_a_newer(contacts: Contacts) -> None:
    await contacts.say(email="new@example.com", updated_at="2026-05-02T00:00:00Z")
    await contacts.row()
    await contacts.say(email="old@example.com", updated_at="2026-05-01T00:00:00Z")
    assert (await contacts.row()).email == "new@example.com"


async def test_of_one_batch_the_newest_holds_whatever_the_order(contacts: Contacts) -> None:
    times = [f"2026-05-{day:02d}T00:00:00Z" for day in (3, 9, 1, 5)]
    await asyncio.gather(*(contacts.say(email=f"a{i}@example.com", updated_at=at) for i, at in enumerate(times)))
    assert (await contacts.row()).email == "a1@example.com"


async def test_what_is_left_out_is_not_known_any_more(contacts: Contacts) -> None:
    await contacts.say(email="a@example.com", phone="+4915112345678")
    await contacts.row()
    await contacts.say(phone="+4915112345678")
    row = await contacts.row()
    assert (row.email, row.phone) == (None, "+4915112345678")


async def test_null_removes_contact_and_devices(service: Service, ledger: Ledger, contacts: Contacts) -> None:
    await contacts.say(email="gone@example.com", devices=[{"platform": "fcm", "token": contacts.user}])
    assert await contacts.devices() == {contacts.user}
    await contacts.remove()
    row = await contacts.row()
    assert (row.email, row.phone, row.name) == (None, None, None)
    assert row.removed_at is not None
    assert await contacts.devices() == set()
    request = a_request(contacts.user)
    del request["recipient"]
    await service.publish(request)
    await service.until(UUID(request["id"]), "failed")
    assert ledger.of(UUID(request["id"])) == []


async def test_a_statement_after_a_removal_counts_one_before_it_does_not(contacts: Contacts) -> None:
    await contacts.say(email="first@example.com", updated_at="2026-01-01T00:00:00Z")
    await contacts.remove()
    await contacts.row()
    await contacts.say(email="older@example.com", updated_at="2026-01-02T00:00:00Z")
    assert (await contacts.row()).email is None
    await contacts.say(email="back@example.com")
    row = await contacts.row()
    assert (row.email, row.removed_at) == ("back@example.com", None)


async def test_devices_are_replaced_where_named_and_kept_where_not(contacts: Contacts) -> None:
    one, two = f"{contacts.user}-1", f"{contacts.user}-2"
    await contacts.say(devices=[{"platform": "fcm", "token": one}])
    assert await contacts.devices() == {one}
    await contacts.say(email="a@example.com")
    assert await contacts.devices() == {one}
    await contacts.say(devices=[{"platform": "apns", "token": two}])
    assert await contacts.devices() == {two}
    await contacts.say(devices=[])
    assert await contacts.devices() == set()


async def test_devices_that_a_batch_names_first_are_kept_by_what_follows(contacts: Contacts) -> None:
    """The same two statements as one batch and as two come to the same."""
    one = f"{contacts.user}-1"
    await asyncio.gather(
        contacts.say(devices=[{"platform": "fcm", "token": one}], updated_at="2026-05-01T00:00:00Z"),
        contacts.say(email="a@example.com", updated_at="2026-05-02T00:00:00Z"),
    )
    assert (await contacts.row()).email == "a@example.com"
    assert await contacts.devices() == {one}


async def test_a_token_belongs_to_who_registered_it_last(service: Service, raw: RawClient) -> None:
    first, second = Contacts(service, raw), Contacts(service, raw)
    token = [{"platform": "fcm", "token": f"{first.user}-shared"}]
    # The later statement is read first, by a user whom the batch knows first.
    await asyncio.gather(
        first.say(devices=token, updated_at="2026-05-02T00:00:00Z"),
        second.say(devices=token, updated_at="2026-05-01T00:00:00Z"),
    )
    assert await first.devices() == {f"{first.user}-shared"}
    assert await second.devices() == set()


async def test_a_key_that_is_not_the_user_is_a_dead_letter(
    service: Service, raw: RawClient, contacts: Contacts
) -> None:
    written = await contacts.say(key=b"somebody-else", email="a@example.com")
    await contacts.settled()
    assert await dead(service, raw, written) == ("invalid_contact", "user_id: is not the record's key")
    assert await contacts.row() is None


POISON: dict[str, tuple[bytes | None, bytes | None]] = {
    "no JSON": (b"u-1", b"{"),
    "key is no UTF-8": (b"\xff", b'{"user_id": "u"}'),
    "null with an empty key": (b"", None),
    "null with NUL in the key": (b"a\x00b", None),
    "null with a key longer than a user may be": (NOISE.encode(), None),
    "no user": (b"u-1", b'{"email": "a@example.com"}'),
    "wrong type": (b"u-1", b'{"user_id": 1}'),
    "null field": (b"u-1", b'{"user_id": "u-1", "email": null}'),
    "NUL": (b"u-1", b'{"user_id": "u-1", "name": "a\\u0000"}'),
    "bad address": (b"u-1", b'{"user_id": "u-1", "email": "secret"}'),
    "year 9999": (b"u-1", b'{"user_id": "u-1", "updated_at": "9999-12-31T23:59:59Z"}'),
    "bad device": (b"u-1", b'{"user_id": "u-1", "devices": [{"platform": "pigeon", "token": "secret"}]}'),
    "bool for an object": (b"u-1", b"true"),
}


@pytest.mark.parametrize("name", POISON)
async def test_poison_is_a_dead_letter_and_holds_up_nobody(
    service: Service, raw: RawClient, contacts: Contacts, name: str
) -> None:
    key, value = POISON[name]
    written = await raw.put(CONTACTS, value, key=key)
    await contacts.say(email="after@example.com")
    assert (await contacts.row()).email == "after@example.com"
    error_class, reason = await dead(service, raw, written)
    assert error_class in ("invalid_contact", "database_refused")
    assert "secret" not in reason


async def test_the_longest_token_holds_up_nobody(raw: RawClient, contacts: Contacts) -> None:
    """As many characters as are allowed fit an index entry; more are refused, and hold up nobody."""
    token = NOISE[:2000]
    await contacts.say(devices=[{"platform": "fcm", "token": NOISE[:2001]}])
    await contacts.say(devices=[{"platform": "fcm", "token": token}])
    other = Contacts(contacts._service, raw)
    await other.say(email="after@example.com")
    assert (await other.row()).email == "after@example.com"
    assert await contacts.devices() == {token}


@pytest.mark.parametrize("timestamp_ms", [0, -2, -(10**15)])
async def test_an_absurd_time_of_record_holds_up_nobody(
    service: Service, raw: RawClient, contacts: Contacts, timestamp_ms: int
) -> None:
    odd = Contacts(service, raw)
    await raw.put(CONTACTS, orjson.dumps({"user_id": odd.user, "email": "a@example.com"}), timestamp_ms=timestamp_ms)
    await odd.remove(timestamp_ms=timestamp_ms)
    await contacts.say(email="after@example.com")
    assert (await contacts.row()).email == "after@example.com"
