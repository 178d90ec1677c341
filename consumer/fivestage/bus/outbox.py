"""What is kept until it is acknowledged."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from aiokafka import TopicPartition

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.bus.event_batch import EventBatch
    from fivestage.core.records import OutputRecord

    Waiting = tuple[OutputRecord, "Delivery"]


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

    __slots__ = ("batch", "busy", "over", "pending", "place", "sent_at", "under_way")

    def __init__(self, topic: str, partition: int) -> None:
        self.place = TopicPartition(topic, partition)
        self.pending: deque[Waiting] = deque()
        self.under_way: list[Waiting] = []
        self.batch = b""
        """These, as they are sent, and sent again."""
        self.sent_at: float | None = None
        """Since when it is tried to send what comes first."""
        self.busy = False
        """The sender has it."""
        self.over = False
        """No producer can publish what it holds."""

    def take(self, batch: EventBatch) -> None:
        """Put what comes first under way, as much as fits into a batch."""
        pending, taken = self.pending, self.under_way
        while pending and batch.add(pending[0][0]):
            taken.append(pending.popleft())

    def settle(self) -> list[Waiting]:
        """What was under way, and is not any more."""
        settled, self.under_way = self.under_way, []
        self.batch, self.sent_at = b"", None
        return settled

    def put_back(self) -> None:
        """What was under way comes first again, and nobody has it."""
        self.pending.extendleft(reversed(self.settle()))
        self.busy = False
