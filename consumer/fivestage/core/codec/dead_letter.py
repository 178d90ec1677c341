"""Dead letters, read back: what a record of that topic says, and the record that replays it.

Beside dead letters the topic holds marks: records without a value that say which letter was replayed. They
live as long as what they speak of, since they were written later.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

from fivestage.core.codec.decode import UnreadableReason
from fivestage.core.records import PlainRecord, Record
from fivestage_schemas import headers as h

_OWN: Final = "dlq."
"""Headers that begin so are the service's, not the producer's."""


class Place(NamedTuple):
    """Where a record is."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        return f"{self.topic}/{self.partition}/{self.offset}"


class Mark(NamedTuple):
    """Says that the letter at this partition and offset of the same topic was replayed."""

    partition: int
    offset: int


class DeadLetter(NamedTuple):
    """A record that could not be read, and what was wrong with it."""

    place: Place
    """Where the letter is."""
    source: Place
    """Where the record was."""
    source_timestamp: int
    """The record's own, milliseconds since the epoch."""
    reason: str
    detail: str
    replayed_from: str | None
    """The letter that this record was replayed from before it failed again."""
    size: int
    """Bytes of its value."""
    has_its_bytes: bool
    """Whether the record can be had back: not where it did not fit, or could not be fetched."""
    record: Record

    @property
    def written_at(self) -> float:
        """When it was written, seconds since the epoch."""
        return self.record.timestamp / 1000

    def without_value(self) -> DeadLetter:
        """The letter for a list, which may be long."""
        return self._replace(record=PlainRecord(*self.place, self.record.timestamp))


class Selection(NamedTuple):
    """Which letters are meant; None and empty = any."""

    topic: str | None = None
    """The topic the record came from."""
    reasons: Collection[str] = ()
    since: float | None = None
    """Written then or later, seconds since the epoch."""
    until: float | None = None
    """Written before."""

    def matches(self, letter: DeadLetter) -> bool:
        """Whether a letter is meant."""
        return (
            (self.topic is None or letter.source.topic == self.topic)
            and (not self.reasons or letter.reason in self.reasons)
            and (self.since is None or letter.written_at >= self.since)
            and (self.until is None or letter.written_at < self.until)
        )


def read_letter(record: Record) -> DeadLetter | Mark | None:
    """What a record of the dead-letter topic says; None for one that is neither."""
    told = {
        name: value.decode(errors="replace")
        for name, value in record.headers
        if name.startswith(_OWN) and value is not None
    }
    try:
        if h.DLQ_REPLAYED in told:
            partition, _, offset = told[h.DLQ_REPLAYED].partition("/")
            return Mark(int(partition), int(offset))
        source = Place(told[h.DLQ_TOPIC], int(told[h.DLQ_PARTITION]), int(told[h.DLQ_OFFSET]))
        return DeadLetter(
            Place(record.topic, record.partition, record.offset),
            source,
            int(told[h.DLQ_TIMESTAMP]),
            told[h.DLQ_REASON],
            told.get(h.DLQ_DETAIL, ""),
            told.get(h.DLQ_REPLAYED_FROM),
            len(record.value or b""),
            h.DLQ_TRUNCATED not in told
            and told[h.DLQ_REASON] != UnreadableReason.CORRUPT_RECORD
            and not (record.key is None and record.value is None),
            record,
        )
    except (KeyError, ValueError):
        return None


def replay_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers of the record that replays a letter: the producer's, but for an expiry that has passed."""
    kept = [
        (name, value)
        for name, value in letter.record.headers
        if not name.startswith(_OWN) and name != h.CE_EXPIRY_TIME
    ]
    return [*kept, (h.DLQ_REPLAYED_FROM, str(letter.place).encode())]


def mark_headers(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The headers of the mark that says a letter was replayed."""
    return [(h.DLQ_REPLAYED, f"{letter.place.partition}/{letter.place.offset}".encode())]
