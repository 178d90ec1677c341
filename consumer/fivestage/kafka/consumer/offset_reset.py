"""Where to read on when there is no position, or one outside of what the log holds (``auto_offset_reset``).

aiokafka would do the same without a log line. Records that retention deleted before they were read deserve
one, and a count.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

import structlog
from aiokafka.errors import IllegalStateError, KafkaError, NoOffsetForPartitionError, OffsetOutOfRangeError

from fivestage.core.ledger import PartitionKey
from fivestage.errors import ConfigurationError
from fivestage.kafka.connection.connection import missing_right

if TYPE_CHECKING:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    from fivestage.core.ledger import Ledger, PartitionOffsets
    from fivestage.core.observer import Observer

    Reset = Literal["earliest", "latest", "error"]

LOST_POSITION = (NoOffsetForPartitionError, OffsetOutOfRangeError)
"""What a fetch raises, for one partition at a time, until it is told where to read."""

RETRY_S = 0.2

log = structlog.get_logger("fivestage.kafka.consumer.offset_reset")


class OffsetReset:
    """Finds the place to read on: the earliest record that is there, or the end.

    Args:
        consumer: The consumer whose fetch raised.
        ledger: Learns of records that will never come.
        observer: Counts every position given up.
        topic: For messages.
        group_id: For messages.
        reset: What ``kafka.auto_offset_reset`` says.
    """

    def __init__(
        self,
        consumer: AIOKafkaConsumer,
        ledger: Ledger,
        observer: Observer,
        *,
        topic: str,
        group_id: str,
        reset: Reset = "earliest",
    ) -> None:
        self._topic = topic
        self._group_id = group_id
        self._reset = reset
        self._consumer = consumer
        self._ledger = ledger
        self._observer = observer

    async def restore(self, error: NoOffsetForPartitionError | OffsetOutOfRangeError) -> None:
        """Give the partition that *error* names a position; where that fails, it will be raised again.

        Raises:
            ConfigurationError: no position is to be chosen, or this principal may not read the topic.
        """
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
        offsets = self._ledger.offsets(PartitionKey(*partition))
        if self._reset == "latest":
            offset = (await self._consumer.end_offsets([partition]))[partition]
        else:
            offset = (await self._consumer.beginning_offsets([partition]))[partition]
        if offsets is None or offsets.closed:  # assigned again meanwhile: there may be a position now
            return
        self._refuse(partition, "it has no committed position")
        self._consumer.seek(partition, offset)
        self._go_on_at_end(offsets, offset)
        self._observer.position_reset("none", 0)
        log.info("no position", **_where(partition), offset=offset, from_the=self._reset)

    def _go_on_at_end(self, offsets: PartitionOffsets, offset: int) -> None:
        """Have the end committed: whoever gets the partition next must not start at a later end."""
        if self._reset == "latest":
            offsets.skip_to(offset)

    def _refuse(self, partition: TopicPartition, why: str) -> None:
        if self._reset == "error":
            where = f"partition {partition.partition} of {partition.topic!r}"
            raise ConfigurationError(
                f"group {self._group_id!r} cannot read {where}: {why}, and kafka.auto_offset_reset is "
                "'error'. Set one (kafka-consumer-groups --reset-offsets), or choose earliest or latest"
            )

    async def _move(self, partition: TopicPartition, position: int) -> None:
        """The broker has said that there is nothing at *position*, and never will be."""
        offsets = self._ledger.offsets(PartitionKey(*partition))
        begins_at = (await self._consumer.beginning_offsets([partition]))[partition]
        ends_at = (await self._consumer.end_offsets([partition]))[partition]
        if offsets is None or offsets.closed:  # assigned again meanwhile, perhaps with another position
            return
        if begins_at <= position <= ends_at:  # it was a replica that lagged behind
            await asyncio.sleep(RETRY_S)
            return
        kind = "beyond its end" if position > ends_at else "of deleted records"
        self._refuse(partition, f"position {position} is {kind} ({begins_at} to {ends_at} are there)")
        offset = ends_at if self._reset == "latest" else begins_at
        self._consumer.seek(partition, offset)
        where = {**_where(partition), "position": position, "offset": offset}
        if position > ends_at:
            self._start_another_log(partition, offset)
            log.error("position beyond the end", **where, from_the=self._reset)
            return
        skipped = offset - position
        self._observer.position_reset("deleted", skipped)
        log.error("records were deleted before they were read", skipped=skipped, **where)
        offsets.skip_to(offset)

    def _start_another_log(self, partition: TopicPartition, offset: int) -> None:
        """The log is not the one that was read: its offsets may be lower than those in the book."""
        key = PartitionKey(*partition)
        self._ledger.assign(frozenset({key}))
        self._go_on_at_end(self._ledger.partitions[key], offset)
        self._observer.position_reset("beyond_end", 0)


def _where(partition: TopicPartition) -> dict[str, object]:
    return {"topic": partition.topic, "partition": partition.partition}
