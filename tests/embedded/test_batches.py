"""Parsing fetched batches, without a broker."""

from __future__ import annotations

import mmap
import struct

import pytest
from aiokafka.errors import CorruptRecordException

from fivestage.kafka.consumer.batch_check import CheckedRecords, UnreadableBatchError
from support.wire import bad_checksum, seal
from unit.fuzz.corpus import batch_seeds

PLAIN = batch_seeds()[0]
"""Three records from offset 40 on."""
LAST_OFFSET_DELTA_AT = 23


def at(offset: int, data: bytes = PLAIN) -> bytes:
    """Return the same batch at another offset, which the checksum does not cover."""
    return struct.pack(">q", offset) + data[8:]


def broken(data: bytes = PLAIN, *, delta: int | None = None) -> bytes:
    """Return the batch with a wrong checksum, and optionally another count of offsets."""
    batch = bytearray(data)
    if delta is not None:
        struct.pack_into(">i", batch, LAST_OFFSET_DELTA_AT, delta)
    bad_checksum(batch)
    return bytes(batch)


def lost(data: bytes) -> tuple[int, int | None]:
    """Return the offsets that the first batch loses."""
    with pytest.raises(UnreadableBatchError) as error:
        CheckedRecords(mmap.mmap(-1, 4096), data).next_batch()
    return error.value.first, error.value.end


@pytest.mark.fault(30)
@pytest.mark.parametrize("delta", [None, 0, 2**31 - 1, -(2**31)])
def test_a_batch_with_a_wrong_checksum_is_skipped(delta: int | None) -> None:
    """The end of a batch with a wrong checksum is taken from the next batch; without one it is unknown."""
    assert lost(broken(delta=delta) + at(43)) == (40, 43)
    assert lost(broken(delta=delta) + at(45)[:12]) == (40, 45)
    assert lost(broken(delta=delta) + at(43)[:11]) == (40, None)
    assert lost(broken(delta=delta)) == (40, None)
    assert lost(broken(delta=delta) + at(7)) == (40, None)


@pytest.mark.fault(30)
def test_good_batches_before_a_bad_one_are_read() -> None:
    """Batches before a broken one are read in order; a truncated one is left to the next fetch."""
    records = CheckedRecords(mmap.mmap(-1, 4096), at(40) + at(43) + broken(at(46)) + at(49)[:30])
    offsets = [record.offset for _ in range(2) for record in records.next_batch() or ()]
    assert offsets == list(range(40, 46))
    with pytest.raises(UnreadableBatchError, match="checksum"):
        records.next_batch()
    assert (records.has_next(), records.next_batch()) == (False, None)
    assert records.size_in_bytes() == 3 * len(PLAIN) + 30


@pytest.mark.fault(30)
@pytest.mark.parametrize("magic", [0, 1, 3, 255])
def test_other_formats_are_refused(magic: int) -> None:
    """Formats before 2017, whose batches cannot be bounded, and unknown later ones are rejected."""
    batch = bytearray(PLAIN)
    batch[16] = magic
    seal(batch)
    with pytest.raises(CorruptRecordException, match="unknown format"):
        CheckedRecords(mmap.mmap(-1, 4096), bytes(batch)).next_batch()


@pytest.mark.fault(30)
@pytest.mark.parametrize("length", [-1, -(2**31), 0, 10])
def test_an_invalid_length_raises(length: int) -> None:
    """An invalid length raises, without an endless loop or a dead client task."""
    batch = bytearray(PLAIN)
    struct.pack_into(">i", batch, 8, length)
    records = CheckedRecords(mmap.mmap(-1, 4096), bytes(batch))
    assert records.has_next()
    with pytest.raises(CorruptRecordException):
        records.next_batch()


@pytest.mark.fault(30)
def test_a_batch_larger_than_the_room() -> None:
    """For each codec a batch within the limit is read; a larger one is rejected, naming the limit."""
    for data in batch_seeds()[2:6]:
        assert len(list(CheckedRecords(mmap.mmap(-1, 4096), data).next_batch() or ())) == 3
        with pytest.raises(UnreadableBatchError, match="is larger than 64 bytes") as error:
            CheckedRecords(mmap.mmap(-1, 64), data).next_batch()
        assert (error.value.first, error.value.end) == (40, 43)
