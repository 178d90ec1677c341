"""The double of AIOKafkaConsumer.

Private names that the service touches (``kafka/aiokafka_internals.py``) are those of aiokafka.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from aiokafka.errors import ConsumerStoppedError, IllegalStateError
from aiokafka.structs import OffsetAndMetadata

from .cluster import Client
from .fetcher import Fetcher
from .membership import Membership, is_assigned
from .network import Connection
from .subscription import Subscription

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from fivestage.core.records import PlainRecord

    from .cluster import Cluster
    from .subscription import RebalanceListener


class SimConsumer:
    """A group member.

    Args:
        cluster: The cluster.
        options: The options of AIOKafkaConsumer.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self._cluster = cluster
        self._options = options
        self._request_timeout_s = options["request_timeout_ms"] / 1000
        self._subscription = Subscription()
        self._closed = False
        self._client = Client()
        self._coordinator: Any = None
        self._fetcher: Any = None

    async def start(self) -> None:
        """Connect."""
        connection = Connection(
            self._cluster.network, self._cluster.process.name, timeout_s=self._request_timeout_s
        )
        await connection.call("metadata", lambda reply: reply(None))
        self._coordinator = Membership(self._cluster, self._subscription, self._options)
        self._fetcher = Fetcher(self._cluster, self._subscription, self._coordinator, self._options)
        self._client._conns = {"group": self._coordinator.connection, "fetch": self._fetcher.connection}

    def subscribe(self, _: tuple[str, ...], *, pattern: str | None, listener: RebalanceListener) -> None:
        """Join the group soon."""
        assert pattern is None
        self._subscription.subscribe(listener)

    async def stop(self) -> None:
        """Leave the group."""
        if not self._closed:
            self._closed = True
            if self._coordinator is not None:
                await self._coordinator.close()
                await self._fetcher.close()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[PlainRecord]]:
        """Fetch records."""
        if self._closed:
            raise ConsumerStoppedError
        self._coordinator.check_errors()
        records: dict[TopicPartition, list[PlainRecord]] = await self._fetcher.read(
            partitions, timeout_ms / 1000, max_records
        )
        return records

    def assignment(self) -> set[TopicPartition]:
        """Return the assigned partitions, also while they are being revoked."""
        assignment = self._subscription.assignment
        return set() if assignment is None else set(assignment.states)

    def highwater(self, partition: TopicPartition) -> int | None:
        """Return the end of the log, as of the last fetch."""
        assert is_assigned(self._subscription.assignment, partition), "Partition is not assigned"
        return self._subscription.state(partition).highwater

    def pause(self, *partitions: TopicPartition) -> None:
        """Pause partitions; prefetched records are dropped."""
        for partition in partitions:
            self._subscription.state(partition).paused = True

    def resume(self, *partitions: TopicPartition) -> None:
        """Resume partitions."""
        for partition in partitions:
            self._subscription.state(partition).paused = False
        self._fetcher.wake()

    def paused(self) -> set[TopicPartition]:
        """Return the paused partitions."""
        assignment = self._subscription.assignment
        states = assignment.states if assignment is not None else {}
        return {partition for partition, state in states.items() if state.paused}

    def partitions_for_topic(self, _: str) -> set[int]:
        """Return the partitions of a topic."""
        return set(range(self._cluster.broker.partitions))

    async def beginning_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the beginning offsets of partitions."""
        return dict(await self._fetcher.beginning_offsets(partitions, self._request_timeout_s * 1000))

    async def end_offsets(self, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        """Return the end offsets of partitions."""
        return dict(await self._fetcher.end_offsets(partitions, self._request_timeout_s * 1000))

    async def committed(self, partition: TopicPartition) -> int | None:
        """Return the group's committed offset."""
        found: dict[TopicPartition, int] = await self._coordinator.committed([partition])
        return found.get(partition)

    async def position(self, partition: TopicPartition) -> int:
        """Return the offset of the next record."""
        subscription = self._subscription
        while True:
            assignment = subscription.assignment
            if assignment is None or not is_assigned(assignment, partition):
                raise IllegalStateError(f"Partition {partition} is not assigned")
            state = assignment.states[partition]
            if state.position is not None:
                return state.position
            self._coordinator.check_errors()
            await self._wait(asyncio.ensure_future(state.positioned.wait()))

    def seek(self, partition: TopicPartition, offset: int) -> None:
        """Seek to an offset."""
        self._subscription.state(partition).seek(offset)
        self._fetcher.forget(partition)

    async def seek_to_beginning(self, partition: TopicPartition) -> bool:
        """Seek to the beginning."""
        state = self._subscription.state(partition)
        state.reset()
        self._fetcher.forget(partition)
        await self._wait(asyncio.ensure_future(state.positioned.wait()))
        self._coordinator.check_errors()
        return True

    async def _wait(self, positioned: asyncio.Task[bool]) -> None:
        assignment = self._subscription.assignment
        assert assignment is not None
        waited: set[asyncio.Future[Any]] = {positioned, assignment.ended}
        await asyncio.wait(waited, timeout=self._request_timeout_s, return_when=asyncio.FIRST_COMPLETED)
        positioned.cancel()

    async def commit(self, offsets: dict[TopicPartition, int]) -> None:
        """Commit; the assignment is checked only once, at the beginning."""
        assignment = self._subscription.assignment
        if assignment is None:
            raise IllegalStateError("No partitions assigned")
        for partition in offsets:
            if not is_assigned(assignment, partition):
                raise IllegalStateError(f"Partition {partition} is not assigned")
        await self._coordinator.commit_offsets(
            None, {partition: OffsetAndMetadata(offset, "") for partition, offset in offsets.items()}
        )
