"""Keys are partitioned as by other Kafka clients."""

from __future__ import annotations

import pytest
from aiokafka.partitioner import murmur2 as reference
from hypothesis import given
from hypothesis import strategies as st

from fivestage.kafka.producer.partitioner import murmur2


@given(st.binary(max_size=70))
def test_the_hash_equals_that_of_aiokafka(key: bytes) -> None:
    """The hash equals aiokafka's for any key."""
    assert murmur2(key) == reference(key) & 0xFFFFFFFF


@pytest.mark.parametrize(
    ("key", "found"),
    [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)],
)
def test_the_hash_equals_that_of_kafka(key: bytes, found: int) -> None:
    """The hash equals values from the tests of Kafka's own client, which are signed."""
    assert murmur2(key) == found % (1 << 32)
