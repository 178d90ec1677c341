"""The fetcher of a simulated consumer; after aiokafka's fetcher.py, with its losses.

A read that raises for one partition has already taken records of others, which are lost, and it raises
again for the same record as long as the position stays. It also raises for partitions without a position.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from aiokafka.errors import CorruptRecordException, KafkaError, KafkaTimeoutError, NoOffsetForPartitionError

from fivestage.kafka.consumer.batch_check import UnreadableBatchError

from .fetched import Buffer, Failed
from .network import RETRY_BACKOFF_S, Connection

if TYPE_CHECKING:
    from aiokafka import TopicPartition

    from fivestage.core.records import PlainRecord

    from .broker import Fetched
    from .cluster import Cluster
    from .membership import Membership
    from .subscription import Assignment, Subscription

PREFETCH_BACKOFF_S = 0.1
"""How long fetched records of one partition keep the others from being fetched."""
CLOCK_STEP_S = 1e-6
"""A shorter wait might not move the clock."""


class Fetcher:
    """Prefetches all assigned partitions at once.

    Args:
        cluster: The source of the records.
        subscription: The assigned partitions.
        membership: Provides the committed positions.
        options: The options of AIOKafkaConsumer.
    """

    def __init__(
        self, cluster: Cluster, subscription: Subscription, membership: Membership, options: dict[str, Any]
    ) -> None:
        self._cluster = cluster
        self._subscription = subscription
        self._membership = membership
        self._fetch_min_bytes = 1
        self._fetch_max_wait_ms = options["fetch_max_wait_ms"]
        timeout_s = options["request_timeout_ms"] / 1000
        self.connection = Connection(cluster.network, cluster.process.name, timeout_s=timeout_s)
        self._loop = asyncio.get_running_loop()
        self._records: dict[TopicPartition, Buffer | Failed] = {}
        self._wake: asyncio.Future[None] = self._loop.create_future()
        self._closed = False
        self._fetch_task = self._loop.create_task(self._run())

    def forget(self, partition: TopicPartition) -> None:
        """Drop fetched records: the position was moved."""
        self._records.pop(partition, None)
        self.wake()

    def wake(self) -> None:
        """Check again for partitions to fetch."""
        if not self._wake.done():
            self._wake.set_result(None)

    async def close(self) -> None:
        """End the task."""
        self._closed = True
        self._fetch_task.cancel()
        await asyncio.wait({self._fetch_task})
        for waiter in self._subscription.fetch_waiters:
            if not waiter.done():
                waiter.set_result(None)

    # In the background

    async def _run(self) -> None:
        subscription = self._subscription
        pending: asyncio.Task[bool] | None = None
        while True:
            assignment = subscription.assignment
            if assignment is None or not assignment.active:
                self._records.clear()
                with contextlib.suppress(KafkaError):
                    await subscription.next_assignment()
                continue
            self._records.clear()
            pending = None
            while assignment.active:
                self._wake = self._loop.create_future()
                backoff_s = self._backoff_s()
                if pending is None:
                    pending = self._begin(assignment, backoff_s)
                waited: set[asyncio.Future[Any]] = {self._wake, assignment.ended}
                if pending is not None:
                    waited.add(pending)
                await asyncio.wait(waited, timeout=backoff_s or None, return_when=asyncio.FIRST_COMPLETED)
                if pending is not None and pending.done():
                    if pending.result():
                        self._notify()
                    pending = None
            if pending is not None:
                pending.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await pending

    def _begin(self, assignment: Assignment, backoff_s: float) -> asyncio.Task[bool] | None:
        """Look up positions first; fetch when all are known and no fetched record waits."""
        unknown = [
            partition
            for partition, state in assignment.states.items()
            if state.position is None and partition not in self._records
        ]
        if unknown:
            return self._loop.create_task(self._find_positions(assignment, unknown))
        positions = self._get_actions_per_node(assignment)
        if backoff_s or not positions:
            return None
        return self._loop.create_task(self._proc_fetch_request(assignment, positions))

    def _get_actions_per_node(self, assignment: Assignment) -> dict[TopicPartition, int]:
        return {
            partition: state.position
            for partition, state in assignment.states.items()
            if not state.paused and partition not in self._records and state.position is not None
        }

    def _backoff_s(self) -> float:
        now = self._loop.time()
        left_s = [buffer.made_at + PREFETCH_BACKOFF_S - now for buffer in self._records.values()]
        return max((backoff_s for backoff_s in left_s if backoff_s > CLOCK_STEP_S), default=0.0)

    def _notify(self) -> None:
        for waiter in tuple(self._subscription.fetch_waiters):
            if not waiter.done():
                waiter.set_result(None)

    async def _proc_fetch_request(self, assignment: Assignment, positions: dict[TopicPartition, int]) -> bool:
        try:
            fetched: dict[TopicPartition, Fetched] = await self.connection.call(
                "fetch",
                self._cluster.broker.fetch,
                positions,
                self._fetch_max_wait_ms / 1000,
                self._fetch_min_bytes,
            )
        except KafkaError:
            await asyncio.sleep(RETRY_BACKOFF_S)
            return False
        except asyncio.CancelledError:
            return False
        if not assignment.active:
            return False
        has_some = False
        for partition, (highwater, records) in fetched.items():
            state = assignment.states[partition]
            if state.position != positions[partition]:
                continue
            state.highwater = highwater
            if records:
                bad = self._unreadable(partition.partition, records)
                self._records[partition] = Buffer(assignment, state, records, bad)
                has_some = True
        return has_some

    def _unreadable(self, partition: int, records: list[PlainRecord]) -> dict[int, Exception]:
        """Return the corrupt records, and those damaged on the way: one, or several of a batch."""
        broker, network = self._cluster.broker, self._cluster.network
        bad: dict[int, Exception] = {
            record.offset: CorruptRecordException("Invalid CRC")
            for record in records
            if (partition, record.offset) in broker.corrupt
        }
        if network.faults.damage and network.random.random() < network.faults.damage:
            first = network.random.choice(records).offset
            end = min(first + network.random.randint(1, 3), records[-1].offset + 1)
            error = UnreadableBatchError(first, end, "the checksum of its batch is wrong")
            bad = dict.fromkeys(range(first, end), error) | bad
            broker.suspect |= {(partition, offset) for offset in bad}
            self._cluster.trace.add(self._cluster.process.name, "! damaged", partition, sorted(bad))
        return bad

    async def _find_positions(self, assignment: Assignment, partitions: list[TopicPartition]) -> bool:
        states, has_some = assignment.states, False
        unasked = [partition for partition in partitions if not states[partition].awaiting_reset]
        try:
            committed = await self._membership.committed(unasked) if unasked else {}
            for partition in unasked:
                state = states[partition]
                if state.position is not None or state.awaiting_reset:
                    continue  # the position was moved by a seek meanwhile
                if partition in committed:
                    state.seek(committed[partition])
                else:
                    self._records[partition] = Failed(NoOffsetForPartitionError(partition))
                    has_some = True
            if any(states[partition].awaiting_reset for partition in partitions):
                begins_at = await self._offsets(self._cluster.broker.beginnings, partitions)
                for partition in partitions:
                    if states[partition].awaiting_reset:
                        states[partition].seek(begins_at[partition])
        except KafkaError:
            await asyncio.sleep(RETRY_BACKOFF_S)
        except asyncio.CancelledError:
            pass
        return has_some

    async def _offsets(self, handler: Any, partitions: list[TopicPartition]) -> dict[TopicPartition, int]:
        return dict(await self.connection.call("list offsets", handler, partitions))

    # For the reader

    async def beginning_offsets(
        self, partitions: list[TopicPartition], timeout_ms: float
    ) -> dict[TopicPartition, int]:
        """Return the beginning offsets of partitions."""
        return await self._patiently(self._cluster.broker.beginnings, partitions, timeout_ms)

    async def end_offsets(
        self, partitions: list[TopicPartition], timeout_ms: float
    ) -> dict[TopicPartition, int]:
        """Return the end offsets of partitions."""
        return await self._patiently(self._cluster.broker.ends, partitions, timeout_ms)

    async def _patiently(
        self, handler: Any, partitions: list[TopicPartition], timeout_ms: float
    ) -> dict[TopicPartition, int]:
        try:
            async with asyncio.timeout(timeout_ms / 1000):
                while True:
                    try:
                        return await self._offsets(handler, partitions)
                    except KafkaError:
                        await asyncio.sleep(RETRY_BACKOFF_S)
        except TimeoutError:
            raise KafkaTimeoutError from None

    async def read(
        self, partitions: tuple[TopicPartition, ...], timeout_s: float, room: int
    ) -> dict[TopicPartition, list[PlainRecord]]:
        """Return fetched records of some or all partitions; wait briefly when there are none."""
        clock, subscription = self._loop.time, self._subscription
        while True:
            if subscription.reassigning:
                await subscription.next_assignment()
            started_at = clock()
            drained = self._drain(partitions, room)
            if drained or timeout_s <= 0:
                return drained
            waiter: asyncio.Future[None] = self._loop.create_future()
            subscription.fetch_waiters.add(waiter)
            waiter.add_done_callback(subscription.fetch_waiters.discard)
            done, _ = await asyncio.wait({waiter}, timeout=timeout_s)
            if not done or self._closed:
                waiter.cancel()
                return {}
            waiter.result()
            timeout_s -= clock() - started_at

    def _drain(
        self, partitions: tuple[TopicPartition, ...], room: int
    ) -> dict[TopicPartition, list[PlainRecord]]:
        drained: dict[TopicPartition, list[PlainRecord]] = {}
        for partition in list(self._records):
            if partitions and partition not in partitions:
                continue
            buffer = self._records[partition]
            if isinstance(buffer, Failed):
                if drained:
                    break
                self.forget(partition)
                raise buffer.error
            records = buffer.take(room)  # drained records are lost when it raises
            if buffer.is_empty:
                del self._records[partition]
                self.wake()
            if records:
                drained[partition] = records
                room -= len(records)
                if not room:
                    break
        return drained
