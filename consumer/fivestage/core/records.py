"""Records as they come in and go out, without the client that carries them."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from fivestage.core.codec import record_format

_FRAMING_BYTES: Final = 36


class Record(Protocol):
    """A record as the source hands it over; aiokafka's ConsumerRecord is one."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, as producer or broker stamped it; -1 if it did not."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class PlainRecord(NamedTuple):
    """A record made by ourselves: by the memory bus, or for one that could not be fetched whole."""

    topic: str
    partition: int
    offset: int
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class CorruptRecord(NamedTuple):
    """A record the client could not take out of its batch: only its coordinates are known."""

    record: PlainRecord
    detail: str
    """What is wrong with it, for people, without anything of its content."""


NOT_FROM_KAFKA = PlainRecord("", 0, 0)
"""Stands for the record of a query that was asked directly."""


class Output(StrEnum):
    """The four output topics, by their key in the settings."""

    STAGE_RESULTS = "stage_results"
    RESULTS = "results"
    TIMEOUTS = "timeouts"
    DEAD_LETTERS = "dead_letters"


class OutputRecord(NamedTuple):
    """A record to publish."""

    output: Output
    key: bytes | None
    value: bytes | None
    block: bytes
    """Its headers, as Kafka writes them."""

    @classmethod
    def of(
        cls, output: Output, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> OutputRecord:
        """Make one of single headers."""
        return cls(output, key, value, record_format.block(headers))

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """Its headers, one by one."""
        return record_format.headers_of(self.block)

    @property
    def size(self) -> int:
        """Bytes of key, value and headers, with room for framing (at most 36 bytes)."""
        return _FRAMING_BYTES + len(self.key or b"") + len(self.value or b"") + len(self.block)
