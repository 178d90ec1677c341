"""The records for one output partition, kept until they are acknowledged."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.records import OutputRecord
    from fivestage.kafka.producer.record_batch import RecordBatch

    QueuedRecord = tuple[OutputRecord, "Delivery"]


ANY_SIZE: Final = 1 << 40
"""Bytes: larger than any batch, so no limit."""


class Delivery:
    """The unacknowledged records of one query."""

    __slots__ = ("is_wanted", "on_acked", "published_at", "remaining")

    def __init__(
        self,
        remaining: int,
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool],
        published_at: float,
    ) -> None:
        self.remaining = remaining
        self.on_acked = on_acked
        self.is_wanted = is_wanted
        self.published_at = published_at


class PartitionQueue:
    """The queue of one output partition. One batch is in flight at a time, which keeps the order."""

    def __init__(self, topic: str, partition: int) -> None:
        self.partition = TopicPartition(topic, partition)
        self.pending: deque[QueuedRecord] = deque()
        self.in_flight: list[QueuedRecord] = []
        self.batch = b""
        """The records in flight as they are sent; a retry sends the same bytes."""
        self.sequence = 0
        """The sequence number of the first record of the batch."""
        self.attempts = 0
        """Times the batch in flight was sent."""
        self.single_records = 0
        """Records at the front of the queue that are each sent in a batch of one."""
        self.max_bytes = ANY_SIZE
        """Bytes of the largest batch of several records that may be sent."""
        self.refused_bytes = ANY_SIZE
        """Bytes of the last batch that was rejected as too large, until the record at fault is found."""
        self.retries = 0
        """Pauses since a batch was last acknowledged or requeued."""
        self.retry_at = 0.0
        """When the current pause ends."""
        self.sent_at: float | None = None
        """When sending the front of the queue was first tried; None while nothing is to be sent."""
        self.busy = False
        """Whether the queue is scheduled, being sent, or rejected: ``publish`` must not schedule it."""
        self.closed = False
        """Whether no producer can publish the records in the queue."""

    def size_next_batch(self) -> int:
        """Return the bytes that the next batch may have, 0 for a batch of one record. Call once per batch."""
        if self.single_records:
            self.single_records -= 1
            return 0
        self.max_bytes = min(self.max_bytes, self.refused_bytes // 2)
        return self.max_bytes

    def take(self, batch: RecordBatch) -> None:
        """Move records from the front of the queue into flight, as many as fit into *batch*."""
        pending, taken = self.pending, self.in_flight
        while pending and batch.add(pending[0][0]):
            taken.append(pending.popleft())

    def settle(self) -> list[QueuedRecord]:
        """Remove the batch in flight from the queue; returns its records."""
        settled, self.in_flight = self.in_flight, []
        self.batch, self.sent_at = b"", None
        self.attempts = self.retries = 0
        return settled

    def split(self) -> None:
        """Requeue the batch in flight to be sent record by record; the queue stays busy."""
        self.single_records += len(self.in_flight)
        self.requeue()
        self.busy = True

    def requeue(self) -> None:
        """Put the batch in flight back at the front; the queue is no longer busy."""
        self.pending.extendleft(reversed(self.settle()))
        self.busy = False
