"""Where to read on when there is no position, or one outside of what the log holds.

Left to itself aiokafka begins at the earliest record without a word. Records that retention deleted before
they were read deserve one: here the same is done, loudly.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from fivestage.bus.connection import missing_right
from fivestage.core.ledger import PartitionKey

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from fivestage.core.events import Observer
    from fivestage.core.ledger import Ledger

LOST_POSITION = (NoOffsetForPartitionError, OffsetOutOfRangeError)
"""What a fetch raises, for one partition at a time, until it is told where to read."""

RETRY_S = 0.2

log = structlog.get_logger("fivestage.bus.positions")


class Positions:
    """Finds the place to read on, which is always the earliest record that is there.

    Args:
        consumer: The consumer whose fetch raised.
        ledger: Learns of records that will never come.
        observer: Told of every position given up.
        topic: For messages.
    """

    def __init__(self, consumer: AIOKafkaConsumer, ledger: Ledger, observer: Observer, *, topic: str) -> None:
        self._topic = topic
        self._consumer = consumer
        self._ledger = ledger
        self._observer = observer

    async def restore(self, error: NoOffsetForPartitionError | OffsetOutOfRangeError) -> None:
        """Give the partition that *error* names a position; where that fails, it will be raised again."""
        try:
            if isinstance(error, NoOffsetForPartitionError):
                await self._begin(error.args[0])
            else:
                for partition, position in error.args[0].items():
                    await self._move(partition, position)
        except IllegalStateError:  # taken away meanwhile
            return
        except KafkaError as failure:
            refused = missing_right(failure, topic=self._topic, group_id="")
            if refused is not None:
                raise refused from failure
            log.warning("cannot look up where to read on", error_type=type(failure).__name__)
            await asyncio.sleep(RETRY_S)

    async def _begin(self, partition: TopicPartition) -> None:
        """Nothing was ever committed, or what was is gone."""
        book = self._ledger.book(PartitionKey(*partition))
        begins_at = (await self._consumer.beginning_offsets([partition]))[partition]
        if book is None or book.closed:  # given anew meanwhile: there may be a position now
            return
        self._consumer.seek(partition, begins_at)
        self._observer.position_reset("none", 0)
        log.info("no position: from the earliest record on", partition=partition.partition, offset=begins_at)

    async def _move(self, partition: TopicPartition, position: int) -> None:
        """The broker has said that there is nothing at *position*, and never will be."""
        book = self._ledger.book(PartitionKey(*partition))
        begins_at = (await self._consumer.beginning_offsets([partition]))[partition]
        ends_at = (await self._consumer.end_offsets([partition]))[partition]
        if book is None or book.closed:  # given anew meanwhile, perhaps with another position
            return
        if begins_at <= position <= ends_at:  # it was a replica that lagged behind
            await asyncio.sleep(RETRY_S)
            return
        self._consumer.seek(partition, begins_at)
        where = {"partition": partition.partition, "position": position, "offset": begins_at}
        if position > ends_at:
            self._ledger.assign(frozenset({PartitionKey(*partition)}))  # it is another log
            self._observer.position_reset("beyond_end", 0)
            log.error("position beyond the end: from the earliest record on", **where)
            return
        skipped = begins_at - position
        self._observer.position_reset("deleted", skipped)
        log.error("records were deleted before they were read", skipped=skipped, **where)
        book.skip_to(begins_at)
