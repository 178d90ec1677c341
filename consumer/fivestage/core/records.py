"""Kafka records as values, independent of the client library."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

from fivestage.core.codec import record_format

_FRAMING_BYTES: Final = 36


class Record(Protocol):
    """A consumed record; aiokafka's ConsumerRecord satisfies this."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int:
        """Milliseconds since the epoch, set by producer or broker; -1 if it was not set."""

    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes]]: ...


class PlainRecord(NamedTuple):
    """A record not made by the client: from the memory bus, or reduced to what is still needed."""

    topic: str
    partition: int
    offset: int
    timestamp: int = -1
    key: bytes | None = None
    value: bytes | None = None
    headers: Sequence[tuple[str, bytes]] = ()


class CorruptRecord(NamedTuple):
    """A record that the client could not read from its batch: only the coordinates are known."""

    record: PlainRecord
    detail: str
    """The error in words, without any of the record's content."""


NOT_FROM_KAFKA = PlainRecord("", 0, 0)
"""Stands in for the record of a query that does not come from a bus (``Orchestrator.process_query``)."""


class Output(StrEnum):
    """The four output topics; the values are their keys in the settings."""

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
    """The headers, encoded as in a record batch."""

    @classmethod
    def of(
        cls, output: Output, key: bytes | None, value: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> OutputRecord:
        """Make a record from a list of headers."""
        return cls(output, key, value, record_format.block(headers))

    @property
    def headers(self) -> list[tuple[str, bytes]]:
        """The headers as a list."""
        return record_format.headers_of(self.block)

    @property
    def size(self) -> int:
        """Bytes of key, value and headers, plus 36 bytes, the most that their framing takes."""
        return _FRAMING_BYTES + len(self.key or b"") + len(self.value or b"") + len(self.block)
