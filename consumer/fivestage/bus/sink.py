"""The sink: publishes events in explicit batches, one per partition at a time.

``send()`` of aiokafka costs a future and a few awaits per record; ``create_batch/append/send_batch`` costs
a seventh. A partition's next batch fills while its last one is under way, so batches grow with the load and
nothing waits when there is none. The producer is idempotent (acks from all in-sync replicas), which means
that aiokafka retries for ever: the bound on that is ``oldest_unacked_s``, watched by the service.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError, TopicAuthorizationFailedError
from aiokafka.partitioner import murmur2

from fivestage.bus.connection import client_options
from fivestage.errors import BrokerError, ConfigurationError, PublishError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.events import Observer
    from fivestage.core.records import Output, OutputRecord
    from fivestage.settings import Settings

MAX_BATCH_BYTES = 64 * 1024
"""A batch takes records until it is this large; a larger record gets a batch of its own."""


class _Delivery:
    """The records of one query on their way."""

    __slots__ = ("on_acked", "published_at", "remaining")

    def __init__(self, remaining: int, on_acked: Callable[[], None], published_at: float) -> None:
        self.remaining = remaining
        self.on_acked = on_acked
        self.published_at = published_at


class _PartitionQueue:
    """What waits for one output partition. One batch is under way at a time, so order is kept."""

    __slots__ = ("busy", "partition", "pending", "topic")

    def __init__(self, topic: str, partition: int) -> None:
        self.topic = topic
        self.partition = partition
        self.pending: deque[tuple[OutputRecord, _Delivery]] = deque()
        self.busy = False


class Sink:
    """Publishes records and tells when they are acknowledged.

    Args:
        settings: Where to connect and how.
        observer: Told of every acknowledged batch.
        on_failure: Called when a partition can be published to no more; what waits for it stays unfinished.
        max_record_bytes: The largest record that all output topics take.
        make_producer: Makes the client; tests put another in its place.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        on_failure: Callable[[Exception], None],
        *,
        max_record_bytes: int,
        make_producer: Callable[..., AIOKafkaProducer] = AIOKafkaProducer,
    ) -> None:
        self._topics = settings.topics.outputs
        self._observer = observer
        self._on_failure = on_failure
        self._queues: dict[Output, list[_PartitionQueue]] = {}
        self._ready: list[_PartitionQueue] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._keyless = 0
        self._open: dict[_Delivery, None] = {}
        self.producer = make_producer(
            **client_options(settings.kafka),
            enable_idempotence=True,
            max_batch_size=min(MAX_BATCH_BYTES, max_record_bytes),
            max_request_size=max_record_bytes,
        )
        # A partition without a leader is waited for as long as one whose leader does not answer.
        patience_s = settings.kafka.publish_timeout_ms / 1000
        self.producer._message_accumulator._batch_ttl = patience_s  # noqa: SLF001 - aiokafka is pinned

    def __repr__(self) -> str:
        return f"<Sink {len(self._open)} unacknowledged>"

    async def start(self) -> None:
        """Connect and learn the partitions of the output topics.

        Raises:
            BrokerError: no broker answers.
        """
        try:
            await self.producer.start()
            for output, topic in self._topics.items():
                partitions = await self.producer.partitions_for(topic)
                self._queues[output] = [_PartitionQueue(topic, p) for p in sorted(partitions)]
        except KafkaError as error:
            raise BrokerError(f"cannot connect: {error}") from error

    def publish(self, records: Sequence[OutputRecord], on_acked: Callable[[], None]) -> None:
        """Send records, soon; call *on_acked* when the broker has acknowledged all of them."""
        loop = asyncio.get_running_loop()
        delivery = _Delivery(len(records), on_acked, loop.time())
        self._open[delivery] = None
        hashed: dict[bytes | None, int] = {None: self._keyless}
        self._keyless += 1  # records without a key take turns
        for record in records:
            queues = self._queues[record.output]
            key = record.key
            if key not in hashed:
                hashed[key] = murmur2(key) & 0x7FFFFFFF
            queue = queues[hashed[key] % len(queues)]
            queue.pending.append((record, delivery))
            if not queue.busy:
                self._schedule(queue)

    def _schedule(self, queue: _PartitionQueue) -> None:
        """Send the queue's batch at the end of this turn of the loop, with all that is added until then."""
        queue.busy = True
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._send_ready)
        self._ready.append(queue)

    def _send_ready(self) -> None:
        ready, self._ready = self._ready, []
        for queue in ready:
            task = asyncio.get_running_loop().create_task(self._send(queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _send(self, queue: _PartitionQueue) -> None:
        """Send one batch, wait for its acknowledgement, and go on while there is more."""
        loop = asyncio.get_running_loop()
        while queue.pending:
            sent_at = loop.time()
            try:
                batch, taken = self._fill(queue)
                acked = await self.producer.send_batch(batch, queue.topic, partition=queue.partition)
                await acked
                self._acknowledge(taken)
                self._observer.published(queue.topic, len(taken), loop.time() - sent_at)
            except Exception as error:  # noqa: BLE001 - whatever it is, the service must know
                self._fail(queue.topic, error)
                return
        queue.busy = False

    def _fill(self, queue: _PartitionQueue) -> tuple[object, list[tuple[OutputRecord, _Delivery]]]:
        batch = self.producer.create_batch()
        pending, taken = queue.pending, []
        while pending:
            record = pending[0][0]
            appended = batch.append(
                timestamp=None, key=record.key, value=record.value, headers=record.headers
            )
            if appended is None:
                break
            taken.append(pending.popleft())
        batch.close()
        return batch, taken

    def _acknowledge(self, taken: list[tuple[OutputRecord, _Delivery]]) -> None:
        for _, delivery in taken:
            delivery.remaining -= 1
            if not delivery.remaining:
                del self._open[delivery]
                delivery.on_acked()

    def _fail(self, topic: str, error: Exception) -> None:
        if isinstance(error, TopicAuthorizationFailedError):
            text = f"not allowed to write topic {topic!r}: grant Write on it to this principal"
            self._on_failure(ConfigurationError(text))
        else:
            text = f": {error}" if isinstance(error, KafkaError) else ""  # others may quote an event
            name = type(error).__name__
            self._on_failure(PublishError(f"cannot publish to topic {topic!r}: {name}{text}"))

    @property
    def failure(self) -> str | None:
        """Why nothing will ever be sent again; None while all is well."""
        task = self.producer._sender.sender_task  # noqa: SLF001 - nothing public tells; aiokafka is pinned
        return "the Kafka client's send task has ended" if task is not None and task.done() else None

    @property
    def unacknowledged(self) -> int:
        """Queries whose events are under way."""
        return len(self._open)

    def oldest_unacked_s(self, now: float) -> float:
        """How long the oldest delivery has been waiting for its acknowledgement; 0 when there is none."""
        oldest = next(iter(self._open), None)
        return now - oldest.published_at if oldest is not None else 0.0

    async def stop(self) -> None:
        """Disconnect. The caller bounds this: with the brokers away it never returns."""
        for task in self._tasks:
            task.cancel()
        await self.producer.stop()
