"""Keys go where Kafka's own clients would send them."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import DefaultPartitioner
from aiokafka.partitioner import murmur2 as aiokafkas
from hypothesis import given
from hypothesis import strategies as st

from streams.partitions import murmur2, partition_of


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hashes_are_those_of_kafkas_own_test(key: bytes, expected: int) -> None:
    """https://github.com/apache/kafka: `UtilsTest.testMurmur2`, whose numbers are signed."""
    assert murmur2(key) == expected % 2**32


@given(st.binary(max_size=300))
def test_hashes_are_aiokafkas(key: bytes) -> None:
    assert murmur2(key) == aiokafkas(key)


@given(st.binary(max_size=40), st.integers(1, 200))
def test_partitions_are_aiokafkas(key: bytes, count: int) -> None:
    partitions = list(range(count))
    assert partition_of(key, partitions) == DefaultPartitioner()(key, partitions, [])
