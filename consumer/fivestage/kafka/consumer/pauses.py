"""Pauses partitions: all of them under back-pressure, single ones while they are halted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka import TopicPartition

from fivestage.core.ledger import numbers_of
from fivestage.kafka.consumer.assigned import pause, resume, seek

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer

    from fivestage.core.ledger import Ledger, PartitionKey

log = structlog.get_logger("fivestage.kafka.consumer.pauses")


class PartitionPauses:
    """Pauses and resumes the partitions of one consumer.

    aiokafka forgets pauses in every rebalance, so ``reapply`` must follow each.

    Args:
        consumer: The consumer.
        ledger: Decides which partitions are halted, and until when.
    """

    def __init__(self, consumer: AIOKafkaConsumer, ledger: Ledger) -> None:
        self._consumer = consumer
        self._ledger = ledger
        self._halted: set[PartitionKey] = set()
        """The halted partitions that are paused in the consumer."""
        self.all_paused = False

    def pause_all(self) -> None:
        """Stop fetching."""
        self.all_paused = True
        self._consumer.pause(*self._consumer.assignment())

    def resume_all(self) -> None:
        """Fetch again, except for halted partitions."""
        self.all_paused = False
        halted = {TopicPartition(*key) for key in self._halted}
        self._consumer.resume(*(self._consumer.assignment() - halted))

    def reapply(self) -> None:
        """Pause the new assignment; halted partitions follow with the next ``update``."""
        self._halted.clear()
        if self.all_paused:
            self.pause_all()

    def update(self) -> None:
        """Pause partitions that were halted since the last call; resume those whose halt is over."""
        for key in self._ledger.resumable(asyncio.get_running_loop().time()):
            offset, partition = self._ledger.resume(key), TopicPartition(*key)
            if offset is not None:
                seek(self._consumer, partition, offset)
            if not self.all_paused:
                resume(self._consumer, partition)
            self._halted.discard(key)
            log.info("partition resumed", topic=key.topic, partition=key.partition, offset=offset)
        for key in self._ledger.halted():
            if key not in self._halted:
                self._halted.add(key)
                pause(self._consumer, TopicPartition(*key))
                halt, offsets = self._ledger.guard.halted[key], self._ledger.partitions[key]
                where = {"topic": key.topic, "partition": key.partition, "position": offsets.position}
                log.error("partition halted", **where, reason=halt.reason)

    @property
    def halted(self) -> str | None:
        """Which partitions are halted, and why the first of them is; None while none is halted."""
        halted = self._ledger.halted()
        if not halted:
            return None
        names = ", ".join(map(str, numbers_of(halted)))
        return f"halted: partition {names}: {self._ledger.guard.halted[halted[0]].reason}"
