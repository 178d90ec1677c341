"""Reads record batches: verifies the checksum and decompresses with a size limit.

aiokafka decompresses a batch to any size, and its error for a broken batch does not name the offsets. Here
the size is limited before memory is allocated, and the error names the offsets. Only record format 2 is read:
since version 3.0 brokers no longer write the older formats (before Kafka 0.11, 2017).
"""

from __future__ import annotations

import mmap
import struct
from functools import partial
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
"""Base offset and number of bytes that follow; the same in all formats."""
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
    """The records of a batch, from offset *first* up to but not including *end*, cannot be read.

    *end* is None if the header of the batch may be wrong too, and no next batch was fetched to show the end.
    """

    def __init__(self, first: int, end: int | None, detail: str) -> None:
        super().__init__(detail)
        self.first = first
        self.end = end
        self.detail = detail


class CheckedRecords:
    """The fetched batches of one partition; replaces aiokafka's ``MemoryRecords``.

    Args:
        buffer: The buffer for decompressed batches; a batch that does not fit is unreadable.
        data: The batches, the last of which may be incomplete.
    """

    def __init__(self, buffer: mmap.mmap, data: bytes) -> None:
        self._buffer = buffer
        self._data = data
        self._start = 0
        self._end = self._end_of_next()

    def size_in_bytes(self) -> int:
        """The bytes of all batches, including those that were read."""
        return len(self._data)

    def has_next(self) -> bool:
        """Whether another complete batch follows."""
        return self._end is not None

    def next_batch(self) -> DefaultRecordBatchProtocol | None:
        """Read, verify and decompress the next batch; None if no complete batch is left.

        Raises:
            UnreadableBatchError: the batch is broken, too large once decompressed, or has an unknown codec.
            CorruptRecordException: the batch has another format, in which the offsets cannot be found.
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
        """The base offset of the next batch; None if it was not fetched or is not above *first*."""
        if len(self._data) - self._start < _PREFIX.size:
            return None
        base: int = _PREFIX.unpack_from(self._data, self._start)[0]
        return base if base > first else None

    def _decompressed(self, data: bytes, codec: int) -> bytes:
        """The same batch without compression. The checksum stays that of the compressed batch."""
        compressed = memoryview(data)[_HEADER_BYTES:]
        try:
            if codec == _SNAPPY:
                size = _unsnappy(compressed, self._buffer)
            elif codec in _DECOMPRESS:
                size = _DECOMPRESS[codec](compressed, self._buffer)
            else:
                raise _BrokenError(f"its batch uses an unknown compression codec, {codec}")
        except cramjam.DecompressionError as error:
            raise _BrokenError(self._why(error)) from None
        header = bytearray(data[:_HEADER_BYTES])
        attributes = _ATTRIBUTES.unpack_from(header, _ATTRIBUTES_AT)[0] & ~_CODEC_MASK
        _ATTRIBUTES.pack_into(header, _ATTRIBUTES_AT, attributes)
        return bytes(header) + self._buffer[:size]

    def _why(self, error: Exception) -> str:
        text = str(error)
        if "whole buffer" in text or "smaller than required" in text:
            return f"its decompressed batch is larger than {len(self._buffer)} bytes (kafka.max_batch_bytes)"
        return "its batch cannot be decompressed"


class _BrokenError(Exception):
    """A batch is broken; the text says how. Used in this module only."""


def _unsnappy(compressed: memoryview, buffer: mmap.mmap) -> int:
    """Decompress snappy: in blocks, as Java clients frame it, or in one piece, as librdkafka writes it."""
    if bytes(compressed[: len(_XERIAL)]) != _XERIAL:
        return cramjam.snappy.decompress_raw_into(compressed, buffer)
    at, size = _XERIAL_HEADER_BYTES, 0
    with memoryview(buffer) as whole:
        while at < len(compressed):
            end = at + 4 + int.from_bytes(compressed[at : at + 4], "big")
            if end > len(compressed):
                raise _BrokenError("its batch cannot be decompressed")
            with whole[size:] as rest:
                size += cramjam.snappy.decompress_raw_into(compressed[at + 4 : end], rest)
            at = end
    return size


def check_batches(consumer: AIOKafkaConsumer, *, max_bytes: int) -> None:
    """Make a started consumer read batches with CheckedRecords; other consumers are not affected.

    Args:
        consumer: Made with ``check_crcs=False``: checksums are verified here.
        max_bytes: The largest size of a decompressed batch.
    """
    buffer = mmap.mmap(-1, max_bytes)  # only pages that were ever written use memory
    aiokafka_internals.use_record_reader(consumer, partial(CheckedRecords, buffer))
