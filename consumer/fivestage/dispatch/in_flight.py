"""The state of a record in flight, from its dispatch until its events are acknowledged."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from fivestage.core.codec.decode import Readable, Unreadable
from fivestage.core.deadline import Budget
from fivestage.core.ledger import PartitionKey
from fivestage.core.records import PlainRecord
from fivestage.core.tuples import new
from fivestage_schemas import QueryEvent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.ledger import PartitionOffsets
    from fivestage.core.records import Record
    from fivestage.core.rejection_cause import RejectionCause
    from fivestage.observability.query_trace import QueryTrace

# Placeholders for values that were dropped, or that an unreadable record does not have.
NO_BUDGET: Final = Budget(0.0, 0.0, 0.0)
NO_EVENT: Final = QueryEvent(query_id="none", user_input="none")
NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


class InFlightQuery:
    """A record in flight. Each step adds fields, and drops values that no later step needs.

    ========== ===========================================================================================
    dispatched record, offsets, size; of a query its id, lane, headers, event and budget; else ``unreadable``
    waiting    ``in_line`` (behind its key), ``is_waiting`` (its end-to-end deadline is watched)
    started    the payload is dropped; ``trace`` and ``envelope`` are set
    rejected   the payload is dropped; ``cause`` and ``queue_s``; when the event is published, or before if it
               has waited in the executor, as started
    ========== ===========================================================================================
    """

    __slots__ = (
        "budget",
        "cause",
        "envelope",
        "event",
        "headers",
        "in_line",
        "is_waiting",
        "lane",
        "offsets",
        "query_id",
        "queue_s",
        "record",
        "size",
        "trace",
        "unreadable",
    )

    trace: QueryTrace
    envelope: Envelope
    """The source, ids and times that all its events share."""
    cause: RejectionCause
    """Why it was rejected."""
    queue_s: float
    """Seconds from the record's timestamp to its rejection."""

    def __init__(
        self, record: Record, offsets: PartitionOffsets, decoded: Readable | Unreadable, size: int
    ) -> None:
        self.record = record
        self.offsets = offsets
        self.size = size
        """Bytes of the record that count as input; 0 after a rejection."""
        self.lane = decoded.lane
        self.headers: Mapping[str, str] = decoded.headers
        if isinstance(decoded, Readable):
            self.unreadable: Unreadable | None = None
            self.event: QueryEvent = decoded.event
            self.query_id = decoded.event.query_id
        else:
            self.unreadable = decoded
            self.event = NO_EVENT
            self.query_id = decoded.query_id or ""
        self.budget: Budget = NO_BUDGET
        """The budget computed at arrival; NO_BUDGET after the end and for unreadable records."""
        self.is_waiting = False
        """The query waits for a slot or behind its key, not past its end-to-end deadline."""
        self.in_line = False
        """The record is in line behind an earlier one of its key, even after its end-to-end deadline."""

    def __repr__(self) -> str:
        return f"<InFlightQuery {self.query_id} offset={self.record.offset}>"

    @property
    def has_trace(self) -> bool:
        """Whether ``trace`` and ``envelope`` are set."""
        return self.headers is NO_HEADERS

    def is_due(self, now: float) -> bool:
        """Whether the end-to-end deadline has passed; *now* in monotonic seconds."""
        due_at = self.budget.due_at
        return due_at is not None and due_at <= now

    def drop_payload(self) -> None:
        """Keep only what events need of the record, as these may wait long for acknowledgement."""
        record = self.record
        self.record = new(
            PlainRecord,
            (record.topic, record.partition, record.offset, record.timestamp, record.key, b"", ()),
        )
        self.event = NO_EVENT


def partition_of(record: Record) -> PartitionKey:
    """Return the partition that a record was read from."""
    return new(PartitionKey, (record.topic, record.partition))


def order_key(record: Record) -> tuple[str, int, bytes] | None:
    """Return the key for running records one after the other; None for a record without a key."""
    return None if record.key is None else (record.topic, record.partition, record.key)


def size_of(record: Record) -> int:
    """Return the bytes of a record's value and key."""
    return len(record.value or b"") + len(record.key or b"")
