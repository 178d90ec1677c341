"""Batches are what Kafka's clients read, byte by byte what aiokafka's own would be."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from fivestage.bus.event_batch import HEADER_BYTES, EventBatch
from fivestage.core.records import Output, OutputRecord

NO_LIMIT = 1 << 30
contents = st.none() | st.binary(max_size=300) | st.sampled_from([bytes(8191), bytes(8192), bytes(70_000)])
headers = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=200)), max_size=15)
records = st.builds(OutputRecord.of, st.just(Output.RESULTS), contents, contents, headers)


@given(found=st.lists(records, min_size=1, max_size=80), state=st.tuples(*[st.integers(-1, 1 << 14)] * 3))
def test_a_batch_is_that_of_aiokafka(found: list[OutputRecord], state: tuple[int, int, int]) -> None:
    """The same bytes, whatever the records, and what an idempotent producer adds."""
    batch = EventBatch(NO_LIMIT)
    assert all(batch.add(record) for record in found)
    own = batch.encode(*state)
    when = DefaultRecordBatch(own).first_timestamp
    theirs: Any = DefaultRecordBatchBuilder(2, 0, 0, *state, NO_LIMIT)
    for number, one in enumerate(found):
        theirs.append(number, when, one.key, one.value, [*one.headers])
    assert own == bytes(theirs.build())
    assert DefaultRecordBatch(own).validate_crc()
    assert (len(own), len(found)) == (batch.size, len(batch))


@given(record=records)
def test_headers_are_read_back(record: OutputRecord) -> None:
    """What was put in, in its order."""
    assert OutputRecord.of(record.output, None, None, record.headers).block == record.block


@pytest.mark.parametrize(("room", "taken"), [(-1, 1), (0, 2), (1, 2)])
def test_a_full_batch_takes_no_more(room: int, taken: int) -> None:
    """Its header counts; the first record is taken however large it is."""
    record = OutputRecord.of(Output.RESULTS, b"key", bytes(1000), [("a", b"b")])
    one = EventBatch(NO_LIMIT)
    one.add(record)
    batch = EventBatch(HEADER_BYTES + 2 * (one.size - HEADER_BYTES) + room)
    assert [batch.add(record) for _ in range(3)].count(True) == taken
    assert EventBatch(10).add(record)
