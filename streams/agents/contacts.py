"""The contact lane: keeps the contact table up to date with `user.contacts`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from models.contact_record import ContactRecord
from models.enums import Stage
from models.errors import Refused
from models.repositories import contact_records as table
from models.repositories import dead_letters as index
from models.repositories.contact_records import ContactRow, DeviceRow
from models.requests import Device, parse
from streams.dead_letters import Burial, unburied
from streams.errors import halved, persistently
from streams.intake import Publishes
from streams.metrics import DEAD
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
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._publisher = publisher
        self._clock = clock

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
            if before is None or before.row.updated_at <= stated.row.updated_at:
                newest[stated.row.user_id] = stated
        if newest:
            await halved(list(newest.values()), self._write, self._refused)

    async def _write(self, stated: Sequence[Stated]) -> None:
        async with self._engine.begin() as connection:
            written = await table.upsert(connection, [one.row for one in stated])
            taken = [one for one in stated if one.row.user_id in written]
            await table.forget_devices(connection, [one.row.user_id for one in taken if one.devices is not None])
            devices = {
                (device.platform, device.token): DeviceRow(
                    platform=device.platform,
                    token=device.token,
                    user_id=one.row.user_id,
                    registered_at=one.row.updated_at,
                )
                for one in taken
                for device in one.devices or ()
            }
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
    stamped = datetime.fromtimestamp(record.timestamp_ms / 1000, UTC)
    try:
        key = (record.key or b"").decode()
    except UnicodeDecodeError:
        raise Refused("key", "is not UTF-8") from None
    if record.value is None:
        if not key or "\x00" in key:
            raise Refused("key", "names no user")
        return Stated(record, ContactRow(user_id=key, updated_at=stamped, removed_at=stamped), ())
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
        updated_at=contact.updated_at or stamped,
    )
    return Stated(record, row, contact.devices)
