"""Record batches, checked as a whole before a record is taken out of them.

aiokafka decompresses a batch to whatever it becomes, and what it raises for one that is broken does not say
which offsets that costs. Here the size of a decompressed batch is bounded before anything is allocated, and
the error names the batch. The formats before Kafka 0.11 (2017), which brokers have not written since 3.0, are
not read.
"""

from __future__ import annotations

import mmap
import struct
from typing import TYPE_CHECKING, Final

import cramjam
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch

from fivestage.kafka import aiokafka_internals

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer
    from aiokafka.record._protocols import DefaultRecordBatchProtocol

_PREFIX: Final = struct.Struct(">qi")
"""Base offset, and how many bytes follow: the same in all formats."""
_MAGIC_AT: Final = 16
_MAGIC: Final = 2
_ATTRIBUTES: Final = struct.Struct(">h")
_ATTRIBUTES_AT: Final = 21
_HEADER_BYTES: Final = 61
_CODEC_MASK: Final = 0x07
_SNAPPY: Final = 2
_XERIAL: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES: Final = 16
_DECOMPRESS: Final[dict[int, Callable[..., int]]] = {
    1: cramjam.gzip.decompress_into,
    3: cramjam.lz4.decompress_into,
    4: cramjam.zstd.decompress_into,
}


class UnreadableBatchError(CorruptRecordException):
    """Nothing can be taken out of a batch: its records are lost, from *first* up to and without *end*.

    *end* is None where the batch cannot be believed, and nothing else says where it ends.
    """

    def __init__(self, first: int, end: int | None, detail: str) -> None:
        super().__init__(detail)
        self.first = first
        self.end = end
        self.detail = detail


class CheckedRecords:
    """What a fetch brought of one partition; takes the place of aiokafka's ``MemoryRecords``.

    Args:
        room: Where batches are decompressed; one that does not fit is unreadable.
        data: Batches one after the other, the last one perhaps cut off.
    """

    def __init__(self, room: mmap.mmap, data: bytes) -> None:
        self._room = room
        self._data = data
        self._start = 0
        self._end = self._end_of_next()

    def size_in_bytes(self) -> int:
        """How much there is, read or not."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether another whole batch is there."""
        return self._end is not None

    def next_batch(self) -> DefaultRecordBatchProtocol | None:
        """The next batch, its checksum verified, decompressed.

        Raises:
            UnreadableBatchError: it is broken, or becomes too large.
            CorruptRecordException: it is of another format, which does not say which offsets it has.
        """
        if self._end is None:
            return None
        data = self._data[self._start : self._end]
        self._start, self._end = self._end, self._end_of_next(self._end)
        if len(data) < _HEADER_BYTES or data[_MAGIC_AT] != _MAGIC:
            raise CorruptRecordException("a batch of an unknown format")
        return self._checked(data)

    def _end_of_next(self, start: int = 0) -> int | None:
        if len(self._data) - start < _PREFIX.size:
            return None
        _, length = _PREFIX.unpack_from(self._data, start)
        end = start + _PREFIX.size + max(0, length)
        return end if end <= len(self._data) else None

    def _checked(self, data: bytes) -> DefaultRecordBatchProtocol:
        batch = DefaultRecordBatch(data)
        first, end = batch.base_offset, batch.next_offset
        if not batch.validate_crc():
            raise UnreadableBatchError(first, self._next_base(first), "the checksum of its batch is wrong")
        if not batch.compression_type:
            return batch
        try:
            return DefaultRecordBatch(self._decompressed(data, batch.compression_type))
        except _BrokenError as error:
            raise UnreadableBatchError(first, end, str(error)) from None

    def _next_base(self, first: int) -> int | None:
        """Where the next batch begins, if as much of it came."""
        if len(self._data) - self._start < _PREFIX.size:
            return None
        base: int = _PREFIX.unpack_from(self._data, self._start)[0]
        return base if base > first else None

    def _decompressed(self, data: bytes, codec: int) -> bytes:
        """The same batch, not compressed any more. Its checksum is not that of its new content."""
        compressed = memoryview(data)[_HEADER_BYTES:]
        try:
            if codec == _SNAPPY:
                size = _unsnappy(compressed, self._room)
            elif codec in _DECOMPRESS:
                size = _DECOMPRESS[codec](compressed, self._room)
            else:
                raise _BrokenError(f"the compression of its batch, codec {codec}, is not known")
        except cramjam.DecompressionError as error:
            raise _BrokenError(self._why(error)) from None
        header = bytearray(data[:_HEADER_BYTES])
        attributes = _ATTRIBUTES.unpack_from(header, _ATTRIBUTES_AT)[0] & ~_CODEC_MASK
        _ATTRIBUTES.pack_into(header, _ATTRIBUTES_AT, attributes)
        return bytes(header) + self._room[:size]

    def _why(self, error: Exception) -> str:
        text = str(error)
        if "whole buffer" in text or "smaller than required" in text:
            return f"its batch becomes larger than {len(self._room)} bytes (kafka.max_batch_bytes)"
        return "its batch cannot be decompressed"


class _BrokenError(Exception):
    """Says what is wrong; never leaves this module."""


def _unsnappy(compressed: memoryview, room: mmap.mmap) -> int:
    """Decompress the blocks of Java's snappy framing, or the one that librdkafka writes without any."""
    if bytes(compressed[: len(_XERIAL)]) != _XERIAL:
        return cramjam.snappy.decompress_raw_into(compressed, room)
    at, size = _XERIAL_HEADER_BYTES, 0
    with memoryview(room) as whole:
        while at < len(compressed):
            end = at + 4 + int.from_bytes(compressed[at : at + 4], "big")
            if end > len(compressed):
                raise _BrokenError("its batch cannot be decompressed")
            with whole[size:] as rest:
                size += cramjam.snappy.decompress_raw_into(compressed[at + 4 : end], rest)
            at = end
    return size


def check_batches(consumer: AIOKafkaConsumer, *, max_bytes: int) -> None:
    """Have a consumer that was started read through CheckedRecords; others in the process are left alone.

    Args:
        consumer: Made with ``check_crcs=False``: checksums are verified here.
        max_bytes: The largest that a batch may become.
    """
    room = mmap.mmap(-1, max_bytes)  # costs memory only as far as it was ever used

    def records(data: bytes) -> CheckedRecords:
        return CheckedRecords(room, data)

    aiokafka_internals.read_through(consumer, records)
