"""Records as they come in and go out, without the client that carries them."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


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
    headers: list[tuple[str, bytes]]

    @property
    def size(self) -> int:
        """Bytes of key, value and headers, with room for framing (at most 36 bytes, and 10 a header)."""
        framing = 36 + sum(len(name) + len(value) + 10 for name, value in self.headers)
        return framing + len(self.key or b"") + len(self.value or b"")
