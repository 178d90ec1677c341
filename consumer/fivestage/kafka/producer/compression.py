"""The codecs that compress batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from aiokafka import codec

from fivestage.errors import ConfigurationError

GZIP_LEVEL: Final = 1
LZ4_LEVEL: Final = 1
ZSTD_LEVEL: Final = 1
"""The fastest level of each codec: events are so repetitive that higher levels gain little for more CPU."""


class Codec(NamedTuple):
    """A compression codec."""

    number: int
    """The codec's number in the attributes of a batch."""
    compress: Callable[[bytes], bytes]


def codec_of(name: str) -> Codec | None:
    """The codec of ``kafka.compression``; None for ``none``.

    Raises:
        ConfigurationError: the library of the codec is not installed.
    """
    if name == "none":
        return None
    is_installed, found = _CODECS[name]
    if not is_installed():
        raise ConfigurationError(
            f"kafka.compression = {name}: the library cramjam is not installed: install it"
        )
    return found


_CODECS: Final[dict[str, tuple[Callable[[], bool], Codec]]] = {
    "gzip": (codec.has_gzip, Codec(1, lambda data: codec.gzip_encode(data, GZIP_LEVEL))),
    "snappy": (codec.has_snappy, Codec(2, codec.snappy_encode)),
    "lz4": (codec.has_lz4, Codec(3, lambda data: codec.lz4_encode(data, LZ4_LEVEL))),
    "zstd": (codec.has_zstd, Codec(4, lambda data: codec.zstd_encode(data, ZSTD_LEVEL))),
}
