"""Encodes records and their headers in Kafka's record format 2 (since Kafka 0.11).

The six events of a query share nearly all of their headers. Encoding these once and joining bytes costs a
quarter of passing every header to the client.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fivestage.core.records import OutputRecord

_NULL: Final = b"\x01"
"""The length -1."""
_ATTRIBUTES_AND_TIME: Final = b"\x00\x00"
"""No attributes, and no difference from the time of the batch."""
_SMALL: Final = 8192
"""Smaller numbers, one or two bytes as varints, come from a table."""


def _varint(number: int) -> bytes:
    """Encode a number of 0 or more as a zigzag varint."""
    left, found = number << 1, bytearray()
    while left > 0x7F:  # noqa: PLR2004 - seven bits a byte
        found.append(left & 0x7F | 0x80)
        left >>= 7
    found.append(left)
    return bytes(found)


_VARINTS: Final = tuple(map(_varint, range(_SMALL)))


def varint(number: int) -> bytes:
    """Encode a number of 0 or more as a zigzag varint."""
    return _VARINTS[number] if number < _SMALL else _varint(number)


def sized(content: bytes | None) -> bytes:
    """Encode bytes, their length first; None as the length -1."""
    return _NULL if content is None else varint(len(content)) + content


def header(name: str, value: bytes) -> bytes:
    """Encode one header."""
    return sized(name.encode()) + sized(value)


def block(headers: Iterable[tuple[str, bytes]]) -> bytes:
    """Encode all headers of a record."""
    encoded = [header(name, value) for name, value in headers]
    return varint(len(encoded)) + b"".join(encoded)


def headers_of(encoded: bytes) -> list[tuple[str, bytes]]:
    """Decode headers that ``block`` has encoded."""
    count, at = _read_varint(encoded, 0)
    found = []
    for _ in range(count):
        name, at = _read_sized(encoded, at)
        value, at = _read_sized(encoded, at)
        found.append((name.decode(), value))
    return found


def record_bytes(record: OutputRecord, number: int) -> bytes:
    """Encode a record as the *number*-th of its batch, from 0, at the time of the batch."""
    key, value = record.key, record.value
    body = b"".join(
        (
            _ATTRIBUTES_AND_TIME,
            varint(number),
            _NULL if key is None else varint(len(key)),
            key or b"",
            _NULL if value is None else varint(len(value)),
            value or b"",
            record.block,
        )
    )
    return varint(len(body)) + body


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte <= 0x7F:  # noqa: PLR2004 - the highest bit means that more bytes follow
            return number >> 1, at
        shift += 7


def _read_sized(data: bytes, at: int) -> tuple[bytes, int]:
    length, at = _read_varint(data, at)
    return data[at : at + length], at + length
