"""Encodes and decodes the frames between the bus and its worker processes. Pure.

A frame is a head, which is a short JSON array, and a blob. The data of stages is JSON already; it is sent in
the blob unchanged, so that the bus neither parses nor escapes it.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_HEAD_BYTES: Final = 1 << 24
MAX_BLOB_BYTES: Final = 1 << 30
MAX_PACKET_BYTES: Final = 1 << 17
"""The largest message to or from the fork server, whose socket preserves message boundaries."""
_SIZES: Final = struct.Struct("<II")


class Frame(NamedTuple):
    """One message."""

    head: list[Any]
    blob: bytes = b""


def encode(head: Sequence[Any], *blobs: bytes) -> bytes:
    """Encode one frame, whose blob is all *blobs* joined."""
    text = dump(head)
    return b"".join((_SIZES.pack(len(text), sum(map(len, blobs))), text, *blobs))


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

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
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
        view = data if isinstance(data, memoryview) else memoryview(data)
        start, available = 0, len(view)
        while available - start >= _SIZES.size:
            head, blob = _SIZES.unpack_from(view, start)
            blob_start = start + _SIZES.size + head
            end = blob_start + blob
            if end > available:
                break
            values = orjson.loads(view[start + _SIZES.size : blob_start])
            yield Frame(values, bytes(view[blob_start:end]) if blob else b"")
            start = end
        if start < available:
            self._rest += view[start:]
            _is_whole(self._rest)


def _is_whole(rest: bytearray) -> bool:
    """Return whether *rest* holds a whole frame.

    Raises:
        ValueError: it does not start with a frame.
    """
    if len(rest) < _SIZES.size:
        return False
    head, blob = _SIZES.unpack_from(rest)
    if head > MAX_HEAD_BYTES or blob > MAX_BLOB_BYTES:
        raise ValueError("no frame: too large")
    return len(rest) >= _SIZES.size + int(head) + int(blob)


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
