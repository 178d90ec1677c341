"""What is kept of a record on its way through the dispatcher, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage.core.ledger import PartitionKey
from fivestage.core.tuples import new

if TYPE_CHECKING:
    from fivestage.core.deadline import Budget
    from fivestage.core.decode import Readable, Unreadable
    from fivestage.core.event_json import Envelope
    from fivestage.core.ledger import PartitionLedger
    from fivestage.core.records import Record
    from fivestage.telemetry.tracing import QueryTrace


class Arrival:
    """A record that was taken in, and not begun yet."""

    __slots__ = ("book", "decoded", "record")

    def __init__(self, record: Record, book: PartitionLedger, decoded: Readable | Unreadable) -> None:
        self.record = record
        self.book = book
        self.decoded = decoded


class Candidate:
    """A query that is to be begun, or refused."""

    __slots__ = ("book", "budget", "readable", "record")

    def __init__(self, record: Record, book: PartitionLedger, readable: Readable, budget: Budget) -> None:
        self.record = record
        self.book = book
        self.readable = readable
        self.budget = budget
        """What it may take, as of when it was read."""


class Ticket:
    """A record in flight: what to publish about it, and where to enter that it is finished."""

    __slots__ = ("book", "envelope", "trace")

    def __init__(self, envelope: Envelope, book: PartitionLedger, trace: QueryTrace) -> None:
        self.envelope = envelope
        self.book = book
        self.trace = trace


def partition_of(record: Record) -> PartitionKey:
    """The partition it came from."""
    return new(PartitionKey, (record.topic, record.partition))


def order_key(record: Record) -> tuple[str, int, bytes] | None:
    """What it shares with those that must come one after the other; None with one that has no key."""
    return None if record.key is None else (record.topic, record.partition, record.key)
