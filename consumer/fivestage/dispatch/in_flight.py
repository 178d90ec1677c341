"""What is kept of a record on its way through the dispatcher, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage.core.ledger import PartitionKey
from fivestage.core.records import PlainRecord
from fivestage.core.tuples import new

if TYPE_CHECKING:
    from fivestage.core.codec.decode import Readable, Unreadable
    from fivestage.core.codec.event_json import Envelope
    from fivestage.core.deadline import Budget
    from fivestage.core.ledger import PartitionOffsets
    from fivestage.core.records import Record
    from fivestage.observability.tracing import QueryTrace


class Arrival:
    """A record that cannot be read."""

    __slots__ = ("in_line", "offsets", "record", "unreadable")

    def __init__(self, record: Record, offsets: PartitionOffsets, unreadable: Unreadable) -> None:
        self.record = record
        self.offsets = offsets
        self.unreadable = unreadable
        self.in_line = False
        """It stands behind another of its key."""


class Candidate:
    """A query that is to be started, or rejected."""

    __slots__ = ("budget", "in_line", "offsets", "readable", "record", "waits")

    def __init__(self, record: Record, offsets: PartitionOffsets, readable: Readable, budget: Budget) -> None:
        self.record = record
        self.offsets = offsets
        self.readable = readable
        self.budget = budget
        """What it may take, as of when it was read."""
        self.waits = False
        """It waits for a slot or for another of its key, and its deadline is watched."""
        self.in_line = False
        """It stands behind another of its key; it keeps that place when its deadline has passed."""

    def is_due(self, now: float) -> bool:
        """Whether its deadline has passed."""
        due_at = self.budget.due_at
        return due_at is not None and due_at <= now


class Ticket:
    """A record in flight: what to publish about it, and where to enter that it is finished."""

    __slots__ = ("envelope", "offsets", "size", "trace")

    def __init__(self, envelope: Envelope, offsets: PartitionOffsets, trace: QueryTrace, size: int) -> None:
        self.envelope = envelope
        self.offsets = offsets
        self.trace = trace
        self.size = size
        """The bytes of the record as it came in, which count until its events are published."""


def partition_of(record: Record) -> PartitionKey:
    """The partition it came from."""
    return new(PartitionKey, (record.topic, record.partition))


def order_key(record: Record) -> tuple[str, int, bytes] | None:
    """What it shares with those that must come one after the other; None with one that has no key."""
    return None if record.key is None else (record.topic, record.partition, record.key)


def size_of(record: Record) -> int:
    """What it takes, in bytes."""
    return len(record.value or b"") + len(record.key or b"")


def without_value(record: Record) -> PlainRecord:
    """What its events say about it: it may be long until they are acknowledged."""
    return new(
        PlainRecord, (record.topic, record.partition, record.offset, record.timestamp, record.key, b"", ())
    )
