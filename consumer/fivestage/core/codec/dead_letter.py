"""Reads dead letters, and makes the headers of the records that replay them; ``encode`` writes the letters.

The topic of dead letters also holds marks: records without a value that name a replayed letter. A mark is
newer than its letter, so retention deletes the letter first.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from fivestage.core.codec.decode import UnreadableReason
from fivestage.core.records import PlainRecord, Record
from fivestage_schemas import headers as h

_DLQ_PREFIX: Final = "dlq."
"""The prefix of headers that the service added."""


class Place(NamedTuple):
    """The coordinates of a record."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Mark(NamedTuple):
    """A mark: the letter at this partition and offset of the same topic was replayed."""

    partition: int
    offset: int


class DeadLetter(NamedTuple):
    """A record that could not be read, and the reason."""

    place: Place
    """The coordinates of the letter."""
    source: Place
    """The coordinates of the unreadable record."""
    source_timestamp: int
    """The timestamp of the unreadable record, milliseconds since the epoch."""
    reason: str
    detail: str
    replayed_from: str | None
    """The coordinates of an earlier letter, if the record is its replay and could not be read again."""
    size: int
    """Bytes of the letter's value."""
    has_its_bytes: bool
    """Whether the letter holds the record: not if the record was too large, corrupt or empty."""
    record: Record

    @property
    def written_at(self) -> float:
        """When the letter was written, seconds since the epoch."""
        return self.record.timestamp / 1000

    def without_value(self) -> DeadLetter:
        """A copy without the record's value, for long lists."""
        return self._replace(record=PlainRecord(*self.place, self.record.timestamp))


class Selection(NamedTuple):
    """A filter for dead letters; None and empty = any."""

    topic: str | None = None
    """The topic of the unreadable record."""
    reasons: Collection[str] = ()
    since: float | None = None
    """Letters written at that time or later, seconds since the epoch."""
    until: float | None = None
    """Letters written before that time."""

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a letter is selected."""
        return (
            (self.topic is None or letter.source.topic == self.topic)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.since is None or letter.written_at >= self.since)
            and (self.until is None or letter.written_at < self.until)
        )


def read_letter(record: Record) -> DeadLetter | Mark | None:
    """Read a record of the dead-letter topic; None if it is neither a letter nor a mark."""
    found = {
        name: value.decode(errors="replace")
        for name, value in record.headers
        if name.startswith(_DLQ_PREFIX) and value is not None
    }
    try:
        if h.DLQ_REPLAYED in found:
            partition, _, offset = found[h.DLQ_REPLAYED].partition("/")
            return Mark(int(partition), int(offset))
        source = Place(found[h.DLQ_TOPIC], int(found[h.DLQ_PARTITION]), int(found[h.DLQ_OFFSET]))
        return DeadLetter(
            Place(record.topic, record.partition, record.offset),
            source,
            int(found[h.DLQ_TIMESTAMP]),
            found[h.DLQ_REASON],
            found.get(h.DLQ_DETAIL, ""),
            found.get(h.DLQ_REPLAYED_FROM),
            len(record.value or b""),
            h.DLQ_TRUNCATED not in found
            and found[h.DLQ_REASON] != UnreadableReason.CORRUPT_RECORD
            and not (record.key is None and record.value is None),
            record,
        )
    except (KeyError, ValueError):
        return None


def replay_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers for a replay: those of the producer, without ``ce_expirytime``, which may have passed."""
    kept = [
        (name, value)
        for name, value in letter.record.headers
        if not name.startswith(_DLQ_PREFIX) and name != h.CE_EXPIRY_TIME
    ]
    return [*kept, (h.DLQ_REPLAYED_FROM, str(letter.place).encode())]


def mark_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers of the mark for a replayed letter."""
    return [(h.DLQ_REPLAYED, f"{letter.place.partition}/{letter.place.offset}".encode())]
