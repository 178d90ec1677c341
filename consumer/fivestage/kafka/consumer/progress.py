"""Detects partitions that have records but deliver none, although every task of aiokafka runs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError

from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild_policy import ClientFault, StallTracker

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiokafka import AIOKafkaConsumer

    from fivestage.core.ledger import Ledger
    from fivestage.kafka.connection.rebuild_policy import Positions

CHECK_EVERY_S = 0.5
STALLED_AFTER_S = 30.0
CONFIRM_S = 5.0
"""Seconds within which records must arrive once the brokers have reported that there are some."""
LOOK_UP_TIMEOUT_MS = 5000

log = structlog.get_logger("fivestage.kafka.consumer.progress")


class ProgressWatch:
    """Watches the positions of a consumer, and looks up the ends of partitions that do not move.

    Args:
        ledger: Which partitions may be read.
        mark_for_replacement: Called with a consumer that has stalled partitions, and the fault.
        stalled_after_s: Seconds that a position may stay the same before the partition's end is looked up.
        confirm_s: Seconds that the position may stay the same after that look-up.
    """

    def __init__(
        self,
        ledger: Ledger,
        mark_for_replacement: Callable[[AIOKafkaConsumer, ClientFault], None],
        *,
        stalled_after_s: float = STALLED_AFTER_S,
        confirm_s: float = CONFIRM_S,
    ) -> None:
        self._ledger = ledger
        self._mark_for_replacement = mark_for_replacement
        self._confirm_s = confirm_s
        self._tracker = StallTracker(stalled_after_s)
        self._next_check = 0.0
        self._lookup: asyncio.Task[None] | None = None

    def reset(self) -> None:
        """Forget the positions seen so far: nothing is read at the moment, so none is expected to move."""
        self._tracker.reset()
        if self._lookup is not None:
            self._lookup.cancel()

    def check(self, consumer: AIOKafkaConsumer) -> None:
        """Check the positions, at most twice a second. Call this at every fetch of *consumer*."""
        now = asyncio.get_running_loop().time()
        if now < self._next_check or self._lookup is not None:
            return
        self._next_check = now + CHECK_EVERY_S
        stalled = self._tracker.update(self._positions(consumer), now)
        if stalled:
            self._lookup = asyncio.ensure_future(self._compare(consumer, stalled))
            self._lookup.add_done_callback(self._compared)

    def _positions(self, consumer: AIOKafkaConsumer) -> Positions:
        """The positions of partitions that may be read and have no fetched records waiting."""
        wanted = [(key, TopicPartition(*key)) for key in self._ledger.within_span()]
        return {
            key: aiokafka_internals.position_of(consumer, partition)
            for key, partition in wanted
            if not aiokafka_internals.has_buffered(consumer, partition)
        }

    async def _compare(self, consumer: AIOKafkaConsumer, stalled: Positions) -> None:
        """Mark the consumer for replacement if positions are before the end and still do not move."""
        partitions = [TopicPartition(*key) for key in stalled]
        try:
            ends = await aiokafka_internals.end_offsets(consumer, partitions, LOOK_UP_TIMEOUT_MS)
        except KafkaError:
            return  # while the brokers cannot be reached, no record is expected
        behind = [key for key, at in stalled.items() if at is None or ends[TopicPartition(*key)] > at]
        if not behind:
            return
        epoch = self._ledger.epoch
        await asyncio.sleep(self._confirm_s)  # records that are new need a moment to arrive
        if epoch != self._ledger.epoch:
            return
        positions = self._positions(consumer)
        stuck = [key.partition for key in behind if key in positions and positions[key] == stalled[key]]
        if stuck:
            text = f"partitions {sorted(stuck)} have records to read, but deliver none"
            self._mark_for_replacement(consumer, ClientFault("stalled", text))

    def _compared(self, task: asyncio.Task[None]) -> None:
        self._lookup = None
        self._tracker.reset()
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("cannot look up the ends of partitions", error_type=type(error).__name__)
