"""The contact lane: keeps the contact table up to date with `user.contacts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from sqlalchemy.ext.asyncio import AsyncEngine

from models.contact_record import ContactRecord
from models.enums import Stage
from models.errors import Refused
from models.repositories import contact_records as table
from models.repositories import dead_letters as index
from models.repositories.contact_records import ContactRow, DeviceRow
from models.requests import MAX_USER_ID, Device, parse
from streams.batches import Finish
from streams.dead_letters import Burial, unburied
from streams.errors import halved, persistently
from streams.intake import Publishes
from streams.metrics import DEAD
from streams.people_versions import NoVersions, TellsOfChanges
from streams.records import Incoming


@dataclass(frozen=True, slots=True)
class Stated:
    """A record that could be read: the contact, and its devices where it names them."""

    record: Incoming
    row: ContactRow
    devices: tuple[Device, ...] | None


class ContactStage:
    """What the contact lane does with a batch."""

    def __init__(
        self,
        *,
        engine: AsyncEngine,
        publisher: Publishes,
        people: TellsOfChanges | None = None,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._people = people or NoVersions()
        self._clock = clock

    async def begin(self, records: Sequence[Incoming]) -> Finish:
        """Nothing is gained by doing this in two parts."""
        return partial(self, records)

    async def __call__(self, records: Sequence[Incoming]) -> None:
        """Finishes a batch: when this returns, all that it caused is durable."""
        await persistently(lambda: self._process(records), lane="contacts")

    async def _process(self, records: Sequence[Incoming]) -> None:
        newest: dict[str, Stated] = {}
        for record in records:
            try:
                stated = read(record)
            except Refused as error:
                await self._bury(record, "invalid_contact", str(error))
                continue
            before = newest.get(stated.row.user_id)
            newest[stated.row.user_id] = stated if before is None else _later(before, stated)
        if newest:
            await halved(list(newest.values()), self._write, self._refused)

    async def _write(self, stated: Sequence[Stated]) -> None:
        users = [one.row.user_id for one in stated]
        async with self._people.changing(*users) as change, self._engine.begin() as connection:
            written = await table.upsert(connection, [one.row for one in stated])
            taken = [one for one in stated if one.row.user_id in written]
            await table.forget_devices(connection, [one.row.user_id for one in taken if one.devices is not None])
            devices = {
                (device.platform, device.token): DeviceRow(
                    platform=device.platform,
                    token=device.token,
                    user_id=one.row.user_id,
                    kind=device.kind,
                    registered_at=one.row.updated_at,
                )
                for one in sorted(taken, key=lambda one: one.row.updated_at)  # a token is whose who named it last
                for device in one.devices or ()
            }
            if devices:
                await change.also(*await table.owners(connection, list(devices.values())))
                await table.register_devices(connection, list(devices.values()))

    async def _refused(self, stated: Stated) -> None:
        await self._bury(stated.record, "database_refused", "is refused by the database")

    async def _bury(self, record: Incoming, error_class: str, reason: str) -> None:
        burial = Burial(
            record=record,
            stage=Stage.CONTACT,
            error_class=error_class,
            error_reason=reason,
            failed_at=self._clock(),
        )
        async with self._engine.connect() as connection:
            if not await unburied(connection, [burial]):
                return
        [place] = await self._publisher.send_all([burial.outgoing()])
        async with self._engine.begin() as connection:
            await index.add(connection, [burial.indexed(*place)])
        DEAD.labels(burial.stage, burial.error_class).inc()


def read(record: Incoming) -> Stated:
    """Decodes a record; no value means that the contact is removed.

    Raises:
        Refused: when key and value name no user, or not the same.
    """
    try:
        key = (record.key or b"").decode()
    except UnicodeDecodeError:
        raise Refused("key", "is not UTF-8") from None
    if record.value is None:
        if not key or "\x00" in key or len(key) > MAX_USER_ID:
            raise Refused("key", "names no user")
        return Stated(record, ContactRow(user_id=key, updated_at=record.stamped, removed_at=record.stamped), ())
    contact = parse(ContactRecord, record.value)
    if key and key != contact.user_id:
        raise Refused("user_id", "is not the record's key")
    row = ContactRow(
        user_id=contact.user_id,
        email=contact.email,
        phone=contact.phone,
        name=contact.name,
        locale=contact.locale,
        timezone=contact.timezone,
        updated_at=contact.updated_at or record.stamped,
    )
    return Stated(record, row, contact.devices)


def _later(before: Stated, then: Stated) -> Stated:
    """What two statements of one batch come to, read in this order: the same as in two batches."""
    if then.row.updated_at < before.row.updated_at:
        return before
    return then if then.devices is not None else replace(then, devices=before.devices)
