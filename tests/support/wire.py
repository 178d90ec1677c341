"""Record batches that no valid client writes, put on the wire by a client that can be patched."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

import cramjam
from aiokafka.codec import snappy_encode
from aiokafka.record.util import calc_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaProducer

    Spoil = Callable[[bytearray], None]

MARK = "MARKMARK"
"""The name of a header on every record, for tests that replace it."""
HEADER_BYTES = 61
LENGTH_AT, CRC_AT, CRC_FROM, ATTRIBUTES_AT = 8, 17, 21, 21
"""Where a record batch (format v2) has its length, its checksum, its content, and the codec."""
GZIP, SNAPPY, LZ4, ZSTD = 1, 2, 3, 4
FRAMED_SNAPPY = SNAPPY | 0x100
"""With the framing of Java's library, as of Java's producer and aiokafka."""
CHUNK = b"\0" * 1_000_000


async def write_batch(
    producer: AIOKafkaProducer, topic: str, partition: int, values: list[bytes], spoil: Spoil | None = None
) -> None:
    """Write one batch, corrupted on its way."""
    batch = producer.create_batch()
    for value in values:
        batch.append(timestamp=None, key=None, value=value, headers=[(MARK, b"x")])
    batch.close()
    if spoil is not None:
        data = bytearray(batch._build())
        spoil(data)
        batch._buffer = bytes(data)
    await (await producer.send_batch(batch, topic, partition=partition))


def bad_header_name(data: bytearray) -> None:
    """Set a header name that is no UTF-8, under a valid checksum: brokers accept it."""
    data[:] = data.replace(MARK.encode(), b"\xff" * len(MARK))
    seal(data)


def bad_checksum(data: bytearray) -> None:
    """Set a wrong checksum."""
    data[CRC_AT] ^= 0xFF


def unknown_codec(data: bytearray) -> None:
    """Set an unknown codec, under a valid checksum."""
    data[ATTRIBUTES_AT + 1] |= 6
    seal(data)


def not_gzip(data: bytearray) -> None:
    """Mark as compressed what is not."""
    data[ATTRIBUTES_AT + 1] |= GZIP
    seal(data)


def packed(codec: int) -> Spoil:
    """Compress the records, as a producer does."""

    def spoil(data: bytearray) -> None:
        repack(data, codec, compress(codec, bytes(data[HEADER_BYTES:])))

    return spoil


def bomb(codec: int, size: int) -> Spoil:
    """Put this many zero bytes in one record, compressed."""
    if codec == GZIP:
        return lambda data: repack(data, codec, gzip_bomb(size))
    return lambda data: repack(data, codec, compress(codec, one_record(b"\0" * size)))


def repack(data: bytearray, codec: int, records: bytes) -> None:
    """Replace the records of a batch by compressed ones."""
    data[HEADER_BYTES:] = records
    data[ATTRIBUTES_AT + 1] |= codec & 7
    seal(data)


def seal(data: bytearray) -> None:
    """Set length and checksum."""
    struct.pack_into(">i", data, LENGTH_AT, len(data) - LENGTH_AT - 4)
    struct.pack_into(">I", data, CRC_AT, calc_crc32c(bytes(data[CRC_FROM:])))


def compress(codec: int, records: bytes) -> bytes:
    """Compress as a producer does."""
    if codec == GZIP:
        return bytes(cramjam.gzip.compress(records))
    if codec == FRAMED_SNAPPY:
        return snappy_encode(records)
    if codec == SNAPPY:
        return bytes(cramjam.snappy.compress_raw(records))
    if codec == LZ4:
        return bytes(cramjam.lz4.compress(records))
    return bytes(cramjam.zstd.compress(records))


def gzip_bomb(size: int) -> bytes:
    """Build a record of this many zero bytes, without ever holding it."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    head, tail = record_around(size)
    parts = [packer.compress(head)]
    parts += [packer.compress(CHUNK[: min(len(CHUNK), size - at)]) for at in range(0, size, len(CHUNK))]
    return b"".join([*parts, packer.compress(tail), packer.flush()])


def one_record(value: bytes) -> bytes:
    """Build a record with this value and nothing else."""
    head, tail = record_around(len(value))
    return head + value + tail


def record_around(size: int) -> tuple[bytes, bytes]:
    """Return the bytes before and after a value of this size: no key, no headers."""
    fields = b"\0\0\0" + varint(-1) + varint(size)
    return varint(len(fields) + size + 1) + fields, varint(0)


def varint(number: int) -> bytes:
    """Encode a number as in records (zigzag, base 128)."""
    rest, found = (number << 1) ^ (number >> 63), bytearray()
    while rest > 0x7F:
        found.append(rest & 0x7F | 0x80)
        rest >>= 7
    return bytes([*found, rest])
