"""Publishes events in batches, one batch in flight per partition.

While a batch is in flight the next one fills, so batches grow with the load, and without load nothing waits.
A batch that is not acknowledged is retried without end; the service limits ``oldest_unacked_s``. When the
producer is rebuilt, unacknowledged records return to the front of their queues and are published again, under
the same ids and in the same order.
"""

from __future__ import annotations

import asyncio
from itertools import chain
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import ClusterAuthorizationFailedError, KafkaError

from fivestage.errors import BrokerError, ConfigurationError, PublishError
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.kafka.producer.client import ProducerClient
from fivestage.kafka.producer.partition_queue import Delivery, PartitionQueue
from fivestage.kafka.producer.partitioner import murmur2
from fivestage.kafka.producer.producer import Producer
from fivestage.kafka.producer.rejected_batch import RejectedBatches
from fivestage.kafka.producer.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.reachability import Reachability
    from fivestage.core.records import Output, OutputRecord
    from fivestage.kafka.producer.partition_queue import QueuedRecord
    from fivestage.settings import Settings

LATE_CHECKS = 3
"""Checks in a row that must find a batch late: the first one after a suspension finds the clock far ahead."""

log = structlog.get_logger("fivestage.kafka.producer.sink")


class Sink:
    """Publishes records and reports when they are acknowledged.

    Args:
        settings: Where to connect and how.
        observer: Notified of acknowledged batches and refused events, of rebuilds and throttling.
        on_failure: Called when some or all events can no longer be published; they stay unacknowledged.
        max_record_bytes: The largest record that all output topics accept.
        reach: Whether brokers can be reached.
        make_producer: Makes the client; tests pass another.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        on_failure: Callable[[Exception], None],
        *,
        max_record_bytes: int,
        reach: Reachability,
        make_producer: Callable[..., ProducerClient] = ProducerClient,
    ) -> None:
        self._topics = settings.topics.outputs
        self._reach = reach
        self._observer = observer
        self._on_failure = on_failure
        self._batch_patience_s = settings.kafka.publish_timeout_ms / 1000 / 2
        self._queues: dict[Output, list[PartitionQueue]] = {}
        self._ready: list[PartitionQueue] = []
        self._sender: Sender | None = None
        self._keyless = 0
        self._late_checks = 0
        self._open: dict[Delivery, None] = {}
        self.producer = Producer(
            settings,
            observer,
            max_record_bytes=max_record_bytes,
            on_retiring=self._take_back,
            on_rebuilt=self._send_all,
            on_failure=lambda error: on_failure(PublishError(str(error))),
            make_client=make_producer,
            reach=self._reach,
        )
        self._rejected = RejectedBatches(self.producer, observer, on_failure)

    def __repr__(self) -> str:
        return f"<Sink {len(self._open)} unacknowledged>"

    async def start(self) -> None:
        """Connect and look up the partitions of the output topics.

        Raises:
            ConfigurationError: no bootstrap server can be used, or the right IdempotentWrite is missing.
            BrokerError: no broker answers, or a topic or a right on one is missing.
        """
        try:
            partitions = await self.producer.start()
        except ClusterAuthorizationFailedError:
            advice = "grant IdempotentWrite on the cluster to this principal"
            raise ConfigurationError(f"not allowed to produce idempotently: {advice}") from None
        except KafkaError as error:
            raise BrokerError(f"cannot connect: {error}") from error
        for output, topic in self._topics.items():
            self._queues[output] = [PartitionQueue(topic, number) for number in partitions[topic]]
        self._sender = self._make_sender()

    def _make_sender(self) -> Sender:
        return Sender(
            self.producer,
            drop_unwanted=self._drop_unwanted,
            on_acked=self._acked,
            on_rejected=self._rejected.rejected,
            on_content_refused=self._rejected.split,
            on_error=self._fail_on_bug,
        )

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Queue the records of one query; call *on_acked* when brokers have acknowledged all of them.

        Records that are no longer wanted when they come to the front of their queue are dropped, and count as
        acknowledged.
        """
        loop = asyncio.get_running_loop()
        delivery = Delivery(len(records), on_acked, is_wanted, loop.time())
        self._open[delivery] = None
        hashed: dict[bytes | None, int] = {None: self._keyless}
        self._keyless += 1  # queries without a key take the partitions in turn
        for record in records:
            queues = self._queues[record.output]
            key = record.key
            if key is not None and key not in hashed:
                hashed[key] = murmur2(key) & 0x7FFFFFFF
            queue = queues[hashed[key] % len(queues)]
            queue.pending.append((record, delivery))
            if not (queue.busy or queue.closed) and self._sender is not None:
                self._schedule(queue)

    def _schedule(self, queue: PartitionQueue) -> None:
        """Send the queue in the next round of the loop, with all records added until then."""
        queue.busy = True
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._send_ready)
        self._ready.append(queue)

    def _send_ready(self) -> None:
        ready, self._ready = self._ready, []
        if self._sender is not None:
            self._sender.send(ready)

    def _drop_unwanted(self, queue: PartitionQueue) -> None:
        """Drop events at the front whose input partition was reassigned: its new owner publishes them."""
        while queue.pending and not queue.pending[0][1].is_wanted():
            self._acknowledge([queue.pending.popleft()])

    def _acked(self, queue: PartitionQueue) -> None:
        took_s = asyncio.get_running_loop().time() - (queue.sent_at or 0.0)
        settled = queue.settle()
        self._acknowledge(settled)
        self._observer.published(queue.partition.topic, len(settled), took_s)

    def _acknowledge(self, settled: list[QueuedRecord]) -> None:
        for _, delivery in settled:
            delivery.remaining -= 1
            if not delivery.remaining:
                del self._open[delivery]
                delivery.on_acked()

    def _fail_on_bug(self, error: BaseException) -> None:
        """Stop the service: after an unexpected exception the acknowledgement of a query may be lost."""
        log.error("unexpected error", exc_info=error)
        self._on_failure(PublishError(f"internal error: {type(error).__name__}"))

    # Checks of the producer

    def look(self, now: float) -> None:
        """Use added partitions, and rebuild the producer if a batch is late.

        Called in each round of the HealthMonitor.
        """
        self._add_partitions()
        sent = [queue.sent_at for queues in self._queues.values() for queue in queues]
        since = min((at for at in sent if at is not None), default=now)
        waited_s = self._reach.waited_s(since, now)
        self._late_checks = self._late_checks + 1 if waited_s > self._batch_patience_s else 0
        if self._late_checks >= LATE_CHECKS:
            self._late_checks = 0
            text = f"a batch was not acknowledged for {waited_s:.0f} s"
            self.producer.rebuild(ClientFault("unacknowledged", text))

    def _add_partitions(self) -> None:
        """Publish to all partitions that the client knows now; as with every Kafka client, keys may move."""
        for output, queues in self._queues.items():
            topic = self._topics[output]
            count = self.producer.partition_count(topic)
            if count > len(queues):
                log.info("partitions added", topic=topic, before=len(queues), now=count)
                queues.extend([PartitionQueue(topic, number) for number in range(len(queues), count)])

    def _remove_partitions(self) -> None:
        """Move the records of partitions that are gone, as where a topic was created again, to the others.

        Done after a rebuild, when the metadata are new and nothing is in flight.
        """
        for output, queues in self._queues.items():
            topic = self._topics[output]
            count = self.producer.partition_count(topic)
            if not 0 < count < len(queues):
                continue
            log.warning("partitions removed", topic=topic, before=len(queues), now=count)
            removed = queues[count:]
            del queues[count:]
            for record, delivery in chain.from_iterable(queue.pending for queue in removed):
                self._keyless += 1
                number = self._keyless if record.key is None else murmur2(record.key) & 0x7FFFFFFF
                queues[number % count].pending.append((record, delivery))

    async def _take_back(self) -> None:
        """Stop the sender and requeue what is in flight."""
        sender, self._sender = self._sender, None
        self._ready.clear()
        if sender is not None:
            await sender.close()
        for queues in self._queues.values():
            for queue in queues:
                queue.requeue()

    def _send_all(self) -> None:
        self._sender = self._make_sender()
        self._remove_partitions()
        for queues in self._queues.values():
            for queue in queues:
                if queue.pending and not (queue.busy or queue.closed):
                    self._schedule(queue)

    @property
    def fault(self) -> ClientFault | None:
        """Why the producer is being rebuilt, while it is; nothing is sent meanwhile."""
        return self.producer.fault

    @property
    def unready(self) -> str | None:
        """Which topic cannot be published to now, as far as the client knows; None while all can."""
        missing = [topic for topic in self._topics.values() if not self.producer.partition_count(topic)]
        if not (self._queues and missing):
            return None
        if missing[0] in self.producer.client.client.cluster.unauthorized_topics:
            return f"not allowed to write topic {missing[0]!r}"
        return f"topic {missing[0]!r} does not exist any more"

    @property
    def unacknowledged(self) -> int:
        """The number of queries with unacknowledged events."""
        return len(self._open)

    def oldest_unacked_s(self, now: float) -> float:
        """Seconds that the oldest unacknowledged query has waited; 0 if there is none."""
        oldest = next(iter(self._open), None)
        return now - oldest.published_at if oldest is not None else 0.0

    async def stop(self) -> None:
        """Disconnect. Without brokers this never returns: the caller limits it."""
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
        await self.producer.stop()
