"""How batches are compressed before they are published."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from aiokafka import codec

from fivestage.errors import ConfigurationError

GZIP_LEVEL: Final = 1
LZ4_LEVEL: Final = 1
ZSTD_LEVEL: Final = 1
"""The fastest of each: events repeat themselves so much that the others gain little, for more CPU."""


class Codec(NamedTuple):
    """One way to compress."""

    number: int
    """How the attributes of a batch name it."""
    compress: Callable[[bytes], bytes]


def codec_of(name: str) -> Codec | None:
    """The codec of ``kafka.compression``; None for ``none``.

    Raises:
        ConfigurationError: the library that it takes is not installed.
    """
    if name == "none":
        return None
    has, made = _CODECS[name]
    if not has():
        raise ConfigurationError(f"kafka.compression = {name}: its library is not installed: install cramjam")
    return made


_CODECS: Final[dict[str, tuple[Callable[[], bool], Codec]]] = {
    "gzip": (codec.has_gzip, Codec(1, lambda data: codec.gzip_encode(data, GZIP_LEVEL))),
    "snappy": (codec.has_snappy, Codec(2, codec.snappy_encode)),
    "lz4": (codec.has_lz4, Codec(3, lambda data: codec.lz4_encode(data, LZ4_LEVEL))),
    "zstd": (codec.has_zstd, Codec(4, lambda data: codec.zstd_encode(data, ZSTD_LEVEL))),
}
