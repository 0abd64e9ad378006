"""Which partition a key belongs to, as Kafka's own clients have it: order within a user rests on it.

aiokafka says the same (`tests/unit/test_partitions.py`), but takes twice as long to hash a key, and for each record
gathers all partitions of its topic three times first.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import unpack_from

_SEED = 0x9747B28C
_FACTOR = 0x5BD1E995
_32_BITS = 0xFFFFFFFF


def partition_of(key: bytes, partitions: Sequence[int]) -> int:
    """The one of all partitions of a topic, in ascending order, that a key's records go to."""
    return partitions[(murmur2(key) & 0x7FFFFFFF) % len(partitions)]


def murmur2(data: bytes) -> int:
    """MurmurHash2 in 32 bits, with the seed of Kafka's clients (`org.apache.kafka.common.utils.Utils.murmur2`)."""
    value = _SEED ^ len(data)
    for word in unpack_from(f"<{len(data) // 4}I", data):
        mixed = word * _FACTOR & _32_BITS
        value = (value * _FACTOR ^ (mixed ^ mixed >> 24) * _FACTOR) & _32_BITS
    if rest := data[len(data) & ~3 :]:
        value = (value ^ int.from_bytes(rest, "little")) * _FACTOR & _32_BITS
    value = (value ^ value >> 13) * _FACTOR & _32_BITS
    return value ^ value >> 15
