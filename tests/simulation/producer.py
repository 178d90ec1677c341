"""What stands in for AIOKafkaProducer.

Private names that the service touches (``bus/internals.py``) are those of aiokafka.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from aiokafka.errors import KafkaError
from aiokafka.record.default_records import DefaultRecordBatch

from .cluster import Client
from .network import RETRY_BACKOFF_S, Connection

if TYPE_CHECKING:
    from fivestage.bus.event_batch import EventBatch

    from .cluster import Cluster


class Batch:
    """A batch under way, and what a broker reads in it."""

    def __init__(self, batch: EventBatch, future: asyncio.Future[None]) -> None:
        self.records = [(one.key, one.headers) for one in DefaultRecordBatch(batch._build())]
        self.future = future


class _Accumulator:
    """Keeps the batches under way."""

    def __init__(self) -> None:
        self._batch_ttl = 0.0
        self._pending_batches: set[Batch] = set()
        self._batches: dict[object, list[Batch]] = {}


class _Sender:
    """Sends for as long as its task lives."""

    def __init__(self) -> None:
        self.sender_task: asyncio.Task[None] | None = None
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self) -> None:
        """Begin."""
        self.sender_task = asyncio.get_running_loop().create_task(self._run())
        self.sender_task.add_done_callback(self._fail_all)

    async def _run(self) -> None:
        await asyncio.get_running_loop().create_future()

    def _fail_all(self, _: asyncio.Task[None]) -> None: ...


class SimProducer:
    """An idempotent producer: it repeats what was not acknowledged until it is.

    Args:
        cluster: Where it is.
        options: Those of AIOKafkaProducer.
    """

    def __init__(self, cluster: Cluster, **options: Any) -> None:
        self._cluster = cluster
        self._timeout_s = options["request_timeout_ms"] / 1000
        self._numbers: Counter[tuple[str, int]] = Counter()
        self._id = 0
        self.client = Client()
        self._message_accumulator = _Accumulator()
        self._sender = _Sender()

    async def start(self) -> None:
        """Connect, and get an id."""
        self._id = await self._connection(None).call("init producer", self._cluster.broker.init_producer)
        self._sender.start()

    def _connection(self, at: tuple[str, int] | None) -> Connection:
        cluster, found = self._cluster, self.client._conns.get(at)
        if found is None:
            found = Connection(cluster.network, cluster.process.name, timeout_s=self._timeout_s)
            self.client._conns[at] = found
        return found

    async def partitions_for(self, _: str) -> set[int]:
        """The partitions of a topic."""
        return set(range(self._cluster.broker.output_partitions))

    async def send_batch(self, filled: EventBatch, topic: str, *, partition: int) -> asyncio.Future[None]:
        """Send a batch; the future is done when it is acknowledged."""
        loop = asyncio.get_running_loop()
        batch = Batch(filled, loop.create_future())
        pending = self._message_accumulator._pending_batches
        pending.add(batch)
        if self._sender.sender_task is None or self._sender.sender_task.done():
            return batch.future
        sending = loop.create_task(self._send((topic, partition), batch))
        self._sender.tasks.add(sending)
        sending.add_done_callback(lambda _: pending.discard(batch))
        sending.add_done_callback(self._sender.tasks.discard)
        return batch.future

    async def _send(self, at: tuple[str, int], batch: Batch) -> None:
        number = self._numbers[at]
        self._numbers[at] += 1
        produce, args = self._cluster.broker.produce, (self._cluster.process.name, self._id, number, at)
        while True:
            try:
                error = await self._connection(at).call("produce", produce, *args, batch.records)
            except KafkaError:
                error = None
            else:
                if error is None or not error.retriable:
                    break
            await asyncio.sleep(RETRY_BACKOFF_S)
        if batch.future.done():
            return
        if error is None:
            batch.future.set_result(None)
        else:
            batch.future.set_exception(error())

    async def stop(self) -> None:
        """Wait until everything is acknowledged, or nothing can be any more."""
        if self._sender.sender_task is None:
            return
        while self._sender.tasks and not self._sender.sender_task.done():
            waited: set[asyncio.Future[None]] = {*self._sender.tasks, self._sender.sender_task}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        self._sender.sender_task.cancel()
