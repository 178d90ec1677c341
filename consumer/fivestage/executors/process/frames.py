"""Encodes and decodes the frames between the bus and its worker processes. Pure.

A frame has a kind, the number of what it is about, values as a JSON array, and a blob. The data of stages is
JSON already; it is sent in the blob unchanged, so that the bus neither parses nor escapes it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_JSON_BYTES: Final = 1 << 24
MAX_BLOB_BYTES: Final = 1 << 30
MAX_PACKET_BYTES: Final = 1 << 17
"""The largest message to or from the fork server, whose socket preserves message boundaries."""
Kinds = tuple[type | tuple[type, ...], ...]
"""The type, or types, of each value: a process of the user's code may write anything."""
_HEADER: Final = struct.Struct("<BQII")
"""The kind, the serial number, and the sizes of values and blob."""
_HEADER_BYTES: Final = 17


class Frame:
    """One message.

    Args:
        kind: See messages.py.
        serial: The number of the stage history that it is about; 0 if it is about none.
        json: The values, as a JSON array; empty if there are none.
        blob: Bytes that are only passed on.
    """

    __slots__ = ("_json", "blob", "kind", "serial")

    def __init__(self, kind: int, serial: int, json: bytes, blob: bytes) -> None:
        self.kind = kind
        self.serial = serial
        self._json = json
        self.blob = blob

    def __repr__(self) -> str:
        return f"<Frame {self.kind} {self.serial} {len(self._json)} + {len(self.blob)} bytes>"

    @property
    def values(self) -> list[Any]:
        """The values; parsed at each call, as those of most starts are never asked for.

        Raises:
            ValueError, TypeError: these are no values.
        """
        values: list[Any] = orjson.loads(self._json) if self._json else []
        return values

    def values_of(self, kinds: Kinds) -> list[Any]:
        """The values, each of the kind at its place.

        Raises:
            ValueError, TypeError: these are no such values.
        """
        return checked(self.values, kinds)


def checked(values: list[Any], kinds: Kinds) -> list[Any]:
    """Return *values*; raise TypeError unless each is of the kind at its place."""
    if len(values) != len(kinds) or not all(map(isinstance, values, kinds)):
        raise TypeError("values of other kinds")
    return values


def encode(kind: int, serial: int = 0, values: Sequence[Any] = (), blob: bytes = b"") -> bytes:
    """Encode one frame."""
    json = dump(values) if values else b""
    header: bytes = _HEADER.pack(kind, serial, len(json), len(blob))
    return b"".join((header, json, blob))


def dump(values: Sequence[Any]) -> bytes:
    """Encode values as JSON."""
    try:
        return orjson.dumps(values)
    except TypeError:  # a lone surrogate: the names of classes and nodes are the user's
        return orjson.dumps(_printable(values))


class Decoder:
    """Splits a stream of bytes into frames."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def __repr__(self) -> str:
        return f"<Decoder {len(self._rest)} bytes of the next frame>"

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yield the frames that *data* completes; the caller must exhaust them.

        Raises:
            ValueError: this is no stream of frames.
        """
        if self._rest:
            self._rest += data
            if not _is_whole(self._rest):
                return
            data = bytes(self._rest)
            self._rest.clear()
        start, available = 0, len(data)
        while available - start >= _HEADER_BYTES:
            kind, serial, json_size, blob_size = _HEADER.unpack_from(data, start)
            blob_start: int = start + _HEADER_BYTES + json_size
            end: int = blob_start + blob_size
            if end > available:
                break
            yield Frame(kind, serial, data[start + _HEADER_BYTES : blob_start], data[blob_start:end])
            start = end
        if start < available:
            self._rest += data[start:]
            _is_whole(self._rest)


def _is_whole(rest: bytearray) -> bool:
    """Return whether *rest* holds a whole frame.

    Raises:
        ValueError: it does not start with a frame.
    """
    if len(rest) < _HEADER_BYTES:
        return False
    _, _, json_size, blob_size = _HEADER.unpack_from(rest)
    if json_size > MAX_JSON_BYTES or blob_size > MAX_BLOB_BYTES:
        raise ValueError("no frame: too large")
    return len(rest) >= _HEADER_BYTES + int(json_size) + int(blob_size)


class BlobReader:
    """Splits a blob into its parts."""

    __slots__ = ("_at", "_blob")

    def __init__(self, blob: bytes) -> None:
        self._blob = blob
        self._at = 0

    def read(self, size: int | None) -> bytes | None:
        """Return the next *size* bytes; None if *size* is None, which stands for no data."""
        if size is None:
            return None
        start, self._at = self._at, self._at + size
        return self._blob[start : self._at]


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, list | tuple):
        return [_printable(item) for item in value]
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value
