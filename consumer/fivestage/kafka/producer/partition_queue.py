"""What is kept until it is acknowledged."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from aiokafka import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.records import OutputRecord
    from fivestage.kafka.producer.record_batch import RecordBatch

    Waiting = tuple[OutputRecord, "Delivery"]


ANY_SIZE: Final = 1 << 40


class Delivery:
    """The records of one query on their way."""

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
    """What waits for one output partition. One batch is under way at a time, so order is kept."""

    __slots__ = (
        "again_at",
        "alone",
        "attempts",
        "batch",
        "busy",
        "largest",
        "number",
        "over",
        "pauses",
        "pending",
        "place",
        "sent_at",
        "too_much",
        "under_way",
    )

    def __init__(self, topic: str, partition: int) -> None:
        self.place = TopicPartition(topic, partition)
        self.pending: deque[Waiting] = deque()
        self.under_way: list[Waiting] = []
        self.batch = b""
        """These, as they are sent, and sent again."""
        self.number = 0
        """The sequence number of the first of them."""
        self.attempts = 0
        """How often the batch was sent."""
        self.alone = 0
        """So many records, of those that come first, are each sent in a batch of their own."""
        self.largest = self.too_much = ANY_SIZE
        """How large a batch of several records may be; how large the last one was that was refused for its
        size, until one of its records is."""
        self.pauses = 0
        """How often in a row it had to wait before it was tried again."""
        self.again_at = 0.0
        """When that wait is over."""
        self.sent_at: float | None = None
        """Since when it is tried to send what comes first."""
        self.busy = False
        """The sender has it."""
        self.over = False
        """No producer can publish what it holds."""

    def room(self) -> int:
        """How large the next batch may be; 0 for a record alone."""
        if self.alone:
            self.alone -= 1
            return 0
        self.largest = min(self.largest, self.too_much // 2)
        return self.largest

    def take(self, batch: RecordBatch) -> None:
        """Put what comes first under way, as much as fits into a batch."""
        pending, taken = self.pending, self.under_way
        while pending and batch.add(pending[0][0]):
            taken.append(pending.popleft())

    def settle(self) -> list[Waiting]:
        """What was under way, and is not any more."""
        settled, self.under_way = self.under_way, []
        self.batch, self.sent_at = b"", None
        self.attempts = self.pauses = 0
        return settled

    def split(self) -> None:
        """What was under way comes first again, record by record; the sender still has the queue."""
        self.alone += len(self.under_way)
        self.put_back()
        self.busy = True

    def put_back(self) -> None:
        """What was under way comes first again, and nobody has it."""
        self.pending.extendleft(reversed(self.settle()))
        self.busy = False
