"""Record batches equal aiokafka's own byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from aiokafka import codec
from aiokafka.record.default_records import DefaultRecordBatch, DefaultRecordBatchBuilder
from hypothesis import given
from hypothesis import strategies as st

from fivestage.core.records import Output, OutputRecord
from fivestage.errors import ConfigurationError
from fivestage.kafka.producer.compression import codec_of
from fivestage.kafka.producer.record_batch import HEADER_BYTES, RecordBatch

NO_LIMIT = 1 << 30
CODECS = ("gzip", "snappy", "lz4", "zstd")
contents = st.none() | st.binary(max_size=300) | st.sampled_from([bytes(8191), bytes(8192), bytes(70_000)])
headers = st.lists(st.tuples(st.text(max_size=20), st.binary(max_size=200)), max_size=15)
records = st.builds(OutputRecord.of, st.just(Output.RESULTS), contents, contents, headers)


@given(found=st.lists(records, min_size=1, max_size=80), state=st.tuples(*[st.integers(-1, 1 << 14)] * 3))
def test_a_batch_is_that_of_aiokafka(found: list[OutputRecord], state: tuple[int, int, int]) -> None:
    """The bytes are equal for any records and with the fields of an idempotent producer."""
    batch = RecordBatch(NO_LIMIT)
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
    """Headers are read back in order."""
    assert OutputRecord.of(record.output, None, None, record.headers).block == record.block


@pytest.mark.parametrize(("room", "taken"), [(-1, 1), (0, 2), (1, 2)])
def test_a_full_batch_takes_no_more(room: int, taken: int) -> None:
    """The header counts against the size; the first record is accepted at any size."""
    record = OutputRecord.of(Output.RESULTS, b"key", bytes(1000), [("a", b"b")])
    one = RecordBatch(NO_LIMIT)
    one.add(record)
    batch = RecordBatch(HEADER_BYTES + 2 * (one.size - HEADER_BYTES) + room)
    assert [batch.add(record) for _ in range(3)].count(True) == taken
    assert RecordBatch(10).add(record)


@pytest.mark.parametrize("name", CODECS)
@given(found=st.lists(records, min_size=1, max_size=20))
def test_a_compressed_batch_is_read_back(name: str, found: list[OutputRecord]) -> None:
    """A compressed batch is readable by aiokafka, and never larger than the plain one."""
    batch = RecordBatch(NO_LIMIT)
    assert all(batch.add(record) for record in found)
    compressed, whole = batch.encode(1, 0, 7, codec_of(name)), batch.encode(1, 0, 7)
    read: Any = DefaultRecordBatch(compressed)
    assert read.validate_crc()
    assert read.compression_type == (0 if compressed == whole else CODECS.index(name) + 1)
    assert len(compressed) <= len(whole)
    assert (read.base_sequence, read.producer_id) == (7, 1)
    assert [(one.key, one.value, list(one.headers)) for one in read] == [
        (one.key, one.value, one.headers) for one in found
    ]


@pytest.mark.parametrize("name", CODECS)
def test_repeated_events_are_compressed(name: str) -> None:
    """The repeated parts of a query's events compress to less than a fifth."""
    batch = RecordBatch(NO_LIMIT)
    for _ in range(6):
        batch.add(OutputRecord.of(Output.RESULTS, b"key", b"what all have in common " * 20, []))
    assert len(batch.encode(1, 0, 7, codec_of(name))) < batch.size / 5


@pytest.mark.parametrize("name", ["snappy", "lz4", "zstd"])
def test_a_codec_that_is_not_installed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing codec is rejected at assembly, naming the setting."""
    monkeypatch.setattr(codec, "cramjam", None)
    with pytest.raises(ConfigurationError, match=f"kafka.compression = {name}"):
        codec_of(name)
