"""Partitions that have records to read and bring none, although every task of the client lives."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild_policy import STALLED_AFTER_S, Progress, Trouble

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer

    from fivestage.core.ledger import Ledger, PartitionKey
    from fivestage.kafka.connection.rebuild_policy import OffsetReset

LOOK_S = 0.5
CONFIRM_S = 5.0
"""How long after the brokers said that there is something to read it must have come."""
ASK_TIMEOUT_MS = 5000

log = structlog.get_logger("fivestage.kafka.consumer.progress")


class ProgressWatch:
    """Looks at the partitions of a consumer, and asks the brokers about those that are quiet.

    Args:
        ledger: Knows which partitions may be read.
        mark_for_replacement: Told of a consumer with partitions that are stuck.
        stalled_after_s: How long a partition may be quiet before the brokers are asked.
        confirm_s: How long it may be quiet after that.
    """

    def __init__(
        self,
        ledger: Ledger,
        mark_for_replacement: Callable[[AIOKafkaConsumer, Trouble], None],
        *,
        stalled_after_s: float = STALLED_AFTER_S,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self._ledger = ledger
        self._mark_for_replacement = mark_for_replacement
        self._confirm_s = confirm_s
        self._progress = Progress(stalled_after_s)
        self._next_look = 0.0
        self._asking: asyncio.Task[None] | None = None

    def excuse(self) -> None:
        """Nothing is read at the moment, and so nothing is to come."""
        self._progress.excuse()
        if self._asking is not None:
            self._asking.cancel()

    def look(self, consumer: AIOKafkaConsumer) -> None:
        """To be called while *consumer* is read; looks twice a second."""
        now = asyncio.get_running_loop().time()
        if now < self._next_look or self._asking is not None:
            return
        self._next_look = now + LOOK_S
        quiet = self._progress.look(self._positions(consumer), now)
        if quiet:
            self._asking = asyncio.ensure_future(self._ask(consumer, quiet))
            self._asking.add_done_callback(self._asked)

    def _positions(self, consumer: AIOKafkaConsumer) -> OffsetReset:
        """Of the partitions that may be read, but not of those whose records are here and wait."""
        wanted = [(key, TopicPartition(*key)) for key in self._ledger.within_span()]
        return {
            key: aiokafka_internals.position_of(consumer, partition)
            for key, partition in wanted
            if not aiokafka_internals.has_fetched(consumer, partition)
        }

    async def _ask(self, consumer: AIOKafkaConsumer, quiet: OffsetReset) -> None:
        try:
            behind = await self._behind(consumer, quiet)
        except KafkaError:
            return  # while the brokers are away, nothing is to come
        if not behind:
            return
        epoch = self._ledger.epoch
        await asyncio.sleep(self._confirm_s)  # it may have been written just now
        if epoch != self._ledger.epoch:
            return
        positions = self._positions(consumer)
        stuck = [key.partition for key in behind if key in positions and positions[key] == quiet[key]]
        if stuck:
            text = f"partitions {sorted(stuck)} have records to read, and none has come for long"
            self._mark_for_replacement(consumer, Trouble("stalled", text))

    async def _behind(self, consumer: AIOKafkaConsumer, quiet: OffsetReset) -> list[PartitionKey]:
        """Those with records to read; also those of which no position is known."""
        wanted = [TopicPartition(*key) for key in quiet]
        ends = await aiokafka_internals.end_offsets(consumer, wanted, ASK_TIMEOUT_MS)
        return [
            key
            for key, position in quiet.items()
            if position is None or ends[TopicPartition(*key)] > position
        ]

    def _asked(self, task: asyncio.Task[None]) -> None:
        self._asking = None
        self._progress.excuse()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("cannot tell whether there is more to read", error_type=type(error).__name__)
