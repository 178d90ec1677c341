"""What stands in for AIOKafkaConsumer and AIOKafkaProducer."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NamedTuple

from aiokafka.errors import ConsumerStoppedError, IllegalStateError, KafkaError

from .fetcher import Fetcher
from .membership import Membership, is_assigned
from .network import RETRY_BACKOFF_S, Connection
from .subscription import Subscription

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from fivestage.core.records import PlainRecord

    from .cluster import Cluster
    from .subscription import RebalanceListener


class SimConsumer:
    """A member of the group.

    Args:
        cluster: Where it is.
        options: Those of AIOKafkaConsumer.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self._cluster = cluster
        self._options = options
        self._request_timeout_s = options["request_timeout_ms"] / 1000
        self._subscription = Subscription()
        self._closed = False
        self._coordinator: Membership
        self._fetcher: Fetcher

    async def start(self) -> None:
        """Connect."""
        connection = Connection(
            self._cluster.network, self._cluster.process.name, timeout_s=self._request_timeout_s
        )
        await connection.call("metadata", lambda reply: reply(None))
        self._coordinator = Membership(self._cluster, self._subscription, self._options)
        self._fetcher = Fetcher(self._cluster, self._subscription, self._coordinator, self._options)

    def subscribe(self, _: list[str], listener: RebalanceListener) -> None:
        """Join the group, soon."""
        self._subscription.subscribe(listener)

    async def stop(self) -> None:
        """Leave the group."""
        if not self._closed:
            self._closed = True
            if hasattr(self, "_coordinator"):
                await self._coordinator.close()
                await self._fetcher.close()

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int
    ) -> dict[TopicPartition, list[PlainRecord]]:
        """Read."""
        if self._closed:
            raise ConsumerStoppedError
        self._coordinator.check_errors()
        return await self._fetcher.read(partitions, timeout_ms / 1000, max_records)

    def assignment(self) -> set[TopicPartition]:
        """What is assigned, also while it is being taken away."""
        assignment = self._subscription.assignment
        return set() if assignment is None else set(assignment.states)

    def highwater(self, partition: TopicPartition) -> int | None:
        """The end of the log, as of the last fetch."""
        assert is_assigned(self._subscription.assignment, partition), "Partition is not assigned"
        return self._subscription.state(partition).highwater

    def pause(self, *partitions: TopicPartition) -> None:
        """Read nothing of these; what was fetched ahead is thrown away."""
        for partition in partitions:
            self._subscription.state(partition).paused = True

    def resume(self, *partitions: TopicPartition) -> None:
        """Read these again."""
        for partition in partitions:
            self._subscription.state(partition).paused = False
        self._fetcher.wake()

    async def committed(self, partition: TopicPartition) -> int | None:
        """The group's position."""
        return (await self._coordinator.committed([partition])).get(partition)

    async def position(self, partition: TopicPartition) -> int:
        """Where the next record is read."""
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
        """Read on from there."""
        self._subscription.state(partition).seek(offset)
        self._fetcher.forget(partition)

    async def seek_to_beginning(self, partition: TopicPartition) -> bool:
        """Read on from the beginning."""
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
        """Commit; whether the partitions are assigned is looked at once, at the beginning."""
        assignment = self._subscription.assignment
        if assignment is None:
            raise IllegalStateError("No partitions assigned")
        for partition in offsets:
            if not is_assigned(assignment, partition):
                raise IllegalStateError(f"Partition {partition} is not assigned")
        await self._coordinator.commit(offsets)


class _Appended(NamedTuple):
    """A record in a batch."""

    key: bytes | None
    headers: list[tuple[str, bytes]]


class Batch:
    """A batch that is being filled."""

    def __init__(self) -> None:
        self.records: list[_Appended] = []

    def append(self, *, key: bytes | None, headers: list[tuple[str, bytes]], **_: object) -> object:
        """Add a record."""
        self.records.append(_Appended(key, headers))
        return self

    def close(self) -> None:
        """It is full."""


class SimProducer:
    """An idempotent producer: it repeats what was not acknowledged until it is.

    Args:
        cluster: Where it is.
        options: Those of AIOKafkaProducer.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self._cluster = cluster
        self._timeout_s = options["request_timeout_ms"] / 1000
        self._connections: dict[tuple[str, int], Connection] = {}
        self._numbers: Counter[tuple[str, int]] = Counter()
        self._id = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._message_accumulator = SimpleNamespace(_batch_ttl=None)
        self._sender = SimpleNamespace(sender_task=None)

    async def start(self) -> None:
        """Connect, and get an id."""
        connection = self._connect()
        self._id = await connection.call("init producer", self._cluster.broker.init_producer)

    def _connect(self) -> Connection:
        return Connection(self._cluster.network, self._cluster.process.name, timeout_s=self._timeout_s)

    async def partitions_for(self, _: str) -> set[int]:
        """The partitions of a topic."""
        return set(range(self._cluster.broker.output_partitions))

    def create_batch(self) -> Batch:
        """An empty batch."""
        return Batch()

    async def send_batch(self, batch: Batch, topic: str, *, partition: int) -> asyncio.Future[None]:
        """Send a batch; the future is done when it is acknowledged."""
        acknowledged: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        sending = asyncio.get_running_loop().create_task(
            self._send((topic, partition), batch.records, acknowledged)
        )
        self._sending.add(sending)
        sending.add_done_callback(self._sending.discard)
        return acknowledged

    async def _send(
        self, at: tuple[str, int], records: list[_Appended], acknowledged: asyncio.Future[None]
    ) -> None:
        connection = self._connections.setdefault(at, self._connect())
        number = self._numbers[at]
        self._numbers[at] += 1
        who = self._cluster.process.name
        produce = self._cluster.broker.produce
        while True:
            try:
                error = await connection.call("produce", produce, who, self._id, number, at, records)
            except KafkaError:
                error = None
            else:
                if error is None or not error.retriable:
                    break
            await asyncio.sleep(RETRY_BACKOFF_S)
        if acknowledged.done():
            return
        if error is None:
            acknowledged.set_result(None)
        else:
            acknowledged.set_exception(error())

    async def stop(self) -> None:
        """Wait until everything is acknowledged."""
        if self._sending:
            await asyncio.wait(self._sending)
