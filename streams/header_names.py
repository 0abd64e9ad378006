"""Makes aiokafka read records whose header names are not UTF-8.

The protocol says that they are, but brokers take any bytes and other clients write them. aiokafka raises while it
unpacks the batch, before any handler of ours could bury the record, so one such record would end the process at each
start, for ever. Here the name comes out with its odd bytes written as `\\xff`; key, value and the rest are untouched.

This reaches into aiokafka (pinned; `tests/integration/test_poison.py` guards it): only a batch that the fast parser
can't read goes through the Python one.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any, SupportsIndex

from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords

#: Base offset (8 bytes), then the length of what follows the two.
_BATCH_HEAD = struct.Struct(">qi")


class _Name(bytes):
    def decode(self, *_: Any, **__: Any) -> str:
        return super().decode("utf-8", "backslashreplace")


class _Buffer(bytearray):
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return _Name(found) if isinstance(index, slice) else found


class _PatientBatch(_DefaultRecordBatchPy):  # type: ignore[misc]
    def _maybe_uncompress(self) -> None:
        super()._maybe_uncompress()
        self._buffer: bytearray = _Buffer(self._buffer)


class TolerantBatch:
    """A batch as aiokafka has it; read again, patiently, when a name in it can't be decoded."""

    def __init__(self, batch: Any, raw: bytes) -> None:
        self._batch = batch
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        return getattr(self._batch, name)

    def __next__(self) -> Any:
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        read = 0
        try:
            for record in self._batch:
                yield record
                read += 1
        except ValueError:  # UnicodeDecodeError is one
            for number, record in enumerate(_PatientBatch(self._raw)):
                if number >= read:
                    yield record


class TolerantRecords:
    """The batches of one fetch."""

    def __init__(self, data: bytes) -> None:
        self._data = bytes(data)
        self._records = MemoryRecords(self._data)
        self._at = 0

    def size_in_bytes(self) -> int:
        """Size of all batches."""
        size: int = self._records.size_in_bytes()
        return size

    def has_next(self) -> bool:
        """Whether there is another batch."""
        more: bool = self._records.has_next()
        return more

    def next_batch(self) -> TolerantBatch:
        """The next batch."""
        batch = self._records.next_batch()
        _, length = _BATCH_HEAD.unpack_from(self._data, self._at)
        begin, self._at = self._at, self._at + _BATCH_HEAD.size + length
        return TolerantBatch(batch, self._data[begin : self._at])


def tolerate_header_names() -> None:
    """From now on all consumers of this process read such records."""
    fetcher.MemoryRecords = TolerantRecords
