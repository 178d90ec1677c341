"""Produce requests equal aiokafka's own byte for byte."""

from __future__ import annotations

import pytest
from aiokafka.errors import IncompatibleBrokerVersion
from aiokafka.protocol.produce import ProduceRequest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.kafka.producer.produce_request import NEWEST, OLDEST, EventRequest

partitions = st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(max_size=300)), max_size=4)
topics = st.lists(st.tuples(st.text(max_size=30), partitions), max_size=4)


@given(
    version=st.integers(OLDEST, NEWEST),
    acks=st.integers(-1, 1),
    timeout=st.integers(0, 60_000),
    found=topics,
)
def test_a_request_is_that_of_aiokafka(
    version: int, acks: int, timeout: int, found: list[tuple[str, list[tuple[int, bytes]]]]
) -> None:
    """The bytes are equal in all versions."""
    versions = {0: (version, version)}
    own = EventRequest(acks, timeout, found).prepare(versions).encode()
    assert own == ProduceRequest(None, acks, timeout, found).prepare(versions).encode()


@pytest.mark.parametrize(
    ("taken", "used"), [((0, 13), 7), ((3, 13), 7), ((0, 3), 3), ((5, 5), 5), ((7, 20), 7)]
)
def test_the_newest_version_that_both_know(taken: tuple[int, int], used: int) -> None:
    """The newest version that both the broker and this writer support is used."""
    assert used == EventRequest(-1, 1000, []).prepare({0: taken}).API_VERSION


@pytest.mark.parametrize("taken", [(0, 2), (8, 13)])
def test_brokers_without_such_a_version(taken: tuple[int, int]) -> None:
    """Without a common version nothing is sent, and the error names the versions."""
    with pytest.raises(
        IncompatibleBrokerVersion, match=f"{taken[0]} to {taken[1]} of produce requests, fivestage 3 to 7"
    ):
        EventRequest(-1, 1000, []).prepare({0: taken})
