"""Requests are what brokers read, byte by byte what aiokafka's own would be."""

from __future__ import annotations

import pytest
from aiokafka.protocol.produce import ProduceRequest
from hypothesis import given
from hypothesis import strategies as st

from fivestage.bus.event_request import EventRequest

NEWEST = ProduceRequest._CLASSES[-1].API_VERSION
partitions = st.lists(st.tuples(st.integers(0, 1 << 30), st.binary(max_size=300)), max_size=4)
topics = st.lists(st.tuples(st.text(max_size=30), partitions), max_size=4)


@given(
    version=st.integers(0, NEWEST),
    transactional_id=st.none() | st.text(min_size=1),
    acks=st.integers(-1, 1),
    timeout=st.integers(0, 60_000),
    found=topics,
)
def test_a_request_is_that_of_aiokafka(
    version: int,
    transactional_id: str | None,
    acks: int,
    timeout: int,
    found: list[tuple[str, list[tuple[int, bytes]]]],
) -> None:
    """The same bytes in all versions, or the same refusal."""
    encoded = []
    for kind in (EventRequest, ProduceRequest):
        request = kind(transactional_id, acks, timeout, found)
        try:
            encoded.append(request.prepare({0: (version, version)}).encode())
        except Exception as error:  # noqa: BLE001 - whatever it is
            encoded.append(repr(error).encode())
    assert encoded[0] == encoded[1]


def test_what_comes_after_the_newest_version_is_not_guessed() -> None:
    """A new release of aiokafka may know a version whose fields are others."""
    assert NEWEST == 7


@pytest.mark.parametrize("version", range(3, NEWEST + 1))
def test_it_is_used_where_it_may_be(version: int) -> None:
    """Since version 3, which EventBatch needs anyway."""
    request = EventRequest(None, -1, 1000, [])
    assert request.prepare({0: (version, version)}).encode == request._encode
