"""The sink: publishes events in batches, one per partition at a time.

A partition's next batch fills while its last one is under way, so batches grow with the load and nothing
waits when there is none. What is not acknowledged is sent again and again: the bound on that is
``oldest_unacked_s``, watched by the service.

When the producer has to be made anew, what was not acknowledged goes back to the head of its queue, and is
published again under the same ids and in the same order.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    IncompatibleBrokerVersion,
    InvalidTopicError,
    KafkaError,
    TopicAuthorizationFailedError,
)

from fivestage.core.codec.refused_event import REFUSED, TOO_LARGE, name_of, without_data
from fivestage.core.reachability import Reachability
from fivestage.errors import BrokerError, ConfigurationError, PublishError
from fivestage.kafka.connection.rebuild_policy import Trouble
from fivestage.kafka.producer.client import ProducerClient
from fivestage.kafka.producer.partition_queue import ANY_SIZE, Delivery, PartitionQueue
from fivestage.kafka.producer.partitioner import murmur2
from fivestage.kafka.producer.producer import Producer
from fivestage.kafka.producer.sender import Sender

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.observer import Observer
    from fivestage.core.records import Output, OutputRecord
    from fivestage.kafka.producer.partition_queue import Waiting
    from fivestage.kafka.producer.produce_response import ContentRefusedError
    from fivestage.settings import Settings

LATE_LOOKS = 3
"""How often in a row a batch must be found late: a process that was stopped finds its clocks ahead."""
PERMANENT_ERRORS = (InvalidTopicError, IncompatibleBrokerVersion)
"""Another producer would be told the same."""

log = structlog.get_logger("fivestage.kafka.producer.sink")


class Sink:
    """Publishes records and tells when they are acknowledged.

    Args:
        settings: Where to connect and how.
        observer: Told of every acknowledged batch.
        on_failure: Called when a partition can be published to no more; what waits for it stays unfinished.
        max_record_bytes: The largest record that all output topics take.
        make_producer: Makes the client; tests put another in its place.
        reach: Whether brokers can be reached.
    """

    def __init__(
        self,
        settings: Settings,
        observer: Observer,
        on_failure: Callable[[Exception], None],
        *,
        max_record_bytes: int,
        make_producer: Callable[..., ProducerClient] = ProducerClient,
        reach: Reachability | None = None,
    ) -> None:
        self._topics = settings.topics.outputs
        self._reach = reach or Reachability()
        self._observer = observer
        self._on_failure = on_failure
        self._batch_patience_s = settings.kafka.publish_timeout_ms / 1000 / 2
        self._request_timeout_ms = settings.kafka.request_timeout_ms
        self._queues: dict[Output, list[PartitionQueue]] = {}
        self._ready: list[PartitionQueue] = []
        self._sender: Sender | None = None
        self._keyless = 0
        self._late_looks = 0
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

    def __repr__(self) -> str:
        return f"<Sink {len(self._open)} unacknowledged>"

    async def start(self) -> None:
        """Connect and learn the partitions of the output topics.

        Raises:
            BrokerError: no broker answers.
            ConfigurationError: a right is missing.
        """
        try:
            partitions = await self.producer.start()
        except ClusterAuthorizationFailedError:
            routing = "grant IdempotentWrite on the cluster to this principal"
            raise ConfigurationError(f"not allowed to produce idempotently: {routing}") from None
        except KafkaError as error:
            raise BrokerError(f"cannot connect: {error}") from error
        for output, topic in self._topics.items():
            self._queues[output] = [PartitionQueue(topic, number) for number in partitions[topic]]
        self._sender = self._make_sender()

    def _make_sender(self) -> Sender:
        return Sender(
            self.producer,
            timeout_ms=self._request_timeout_ms,
            drop_unwanted=self._drop_unwanted,
            on_acked=self._acked,
            on_refused=self._refused,
            on_split=self._split,
            on_throttled=lambda wait_s: self._observer.throttled("producer", wait_s),
            on_error=self._lost_track,
        )

    def publish(
        self,
        records: Sequence[OutputRecord],
        on_acked: Callable[[], None],
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        """Send records, soon; call *on_acked* when the broker has acknowledged all of them.

        Those that are not wanted any more when their turn comes are dropped, as if they were acknowledged.
        """
        loop = asyncio.get_running_loop()
        delivery = Delivery(len(records), on_acked, is_wanted, loop.time())
        self._open[delivery] = None
        hashed: dict[bytes | None, int] = {None: self._keyless}
        self._keyless += 1  # records without a key take turns
        for record in records:
            queues = self._queues[record.output]
            key = record.key
            if key is not None and key not in hashed:
                hashed[key] = murmur2(key) & 0x7FFFFFFF
            queue = queues[hashed[key] % len(queues)]
            queue.pending.append((record, delivery))
            if not queue.busy and self._may_send(queue):
                self._schedule(queue)

    def _schedule(self, queue: PartitionQueue) -> None:
        """Send the queue's batch at the end of this turn of the loop, with all that is added until then."""
        queue.busy = True
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._send_ready)
        self._ready.append(queue)

    def _send_ready(self) -> None:
        ready, self._ready = self._ready, []
        if self._sender is not None:
            self._sender.send(ready)

    def _may_send(self, queue: PartitionQueue) -> bool:
        return self._sender is not None and not queue.over

    def _drop_unwanted(self, queue: PartitionQueue) -> None:
        """Others have the partitions now whose queries these answer, and answer them."""
        while queue.pending and not queue.pending[0][1].is_wanted():
            self._acknowledge([queue.pending.popleft()])

    def _acked(self, queue: PartitionQueue) -> None:
        took_s = asyncio.get_running_loop().time() - (queue.sent_at or 0.0)
        settled = queue.settle()
        self._acknowledge(settled)
        self._observer.published(queue.place.topic, len(settled), took_s)

    def _acknowledge(self, settled: list[Waiting]) -> None:
        for _, delivery in settled:
            delivery.remaining -= 1
            if not delivery.remaining:
                del self._open[delivery]
                delivery.on_acked()

    def _refused(self, queue: PartitionQueue, error: KafkaError) -> None:
        """A batch was not taken: mend what can be mended, tell the service of the rest."""
        topic, text = queue.place.topic, f"cannot publish to topic {queue.place.topic!r}: {error}"
        if isinstance(error, TopicAuthorizationFailedError):
            queue.over = True
            routing = f"not allowed to write topic {topic!r}: grant Write on it to this principal"
            self._on_failure(ConfigurationError(routing))
        elif isinstance(error, PERMANENT_ERRORS):
            queue.over = True
            self._on_failure(PublishError(text))
        else:
            self.producer.rebuild(Trouble(type(error).__name__, text))

    def _split(self, queue: PartitionQueue, error: ContentRefusedError) -> bool:
        """Nothing of a batch was taken, for what is in it: find the record, publish it without its data."""
        if len(queue.under_way) > 1:
            if error.is_size:
                queue.too_much = len(queue.batch)
        elif not self._leave_out_data(queue, error):
            return False
        queue.split()
        return True

    def _leave_out_data(self, queue: PartitionQueue, error: ContentRefusedError) -> bool:
        """Put another record in the place of the one that was refused; False where there is none."""
        [(record, delivery)] = queue.under_way
        topic, name = queue.place.topic, name_of(record)
        error_type = TOO_LARGE if error.is_size else REFUSED
        other = without_data(record, error_type, error.why)
        if other is None:
            queue.over = True
            text = f"cannot publish {name} to topic {topic!r}, also without data: {error.why}"
            self._on_failure(PublishError(text))
            return False
        self._observer.event_refused(error_type)
        log.warning("refused", topic=topic, event_id=name, cause=error.why)
        queue.under_way[0] = (other, delivery)
        queue.too_much = ANY_SIZE
        return True

    def _lost_track(self, error: BaseException) -> None:
        """A bug of ours: end, rather than lose track of a query."""
        log.error("unexpected error", exc_info=error)
        self._on_failure(PublishError(f"internal error: {type(error).__name__}"))

    # The producer is made anew

    def look(self, now: float) -> None:
        """Have the producer made anew where a batch stays unacknowledged; to be called twice a second.

        Use what partitions were added, too.
        """
        self._add_partitions()
        sent = [queue.sent_at for queues in self._queues.values() for queue in queues]
        since = min((at for at in sent if at is not None), default=now)
        waited_s = self._reach.waited_s(since, now)
        self._late_looks = self._late_looks + 1 if waited_s > self._batch_patience_s else 0
        if self._late_looks >= LATE_LOOKS:
            self._late_looks = 0
            text = f"a batch was not acknowledged for {waited_s:.0f} s"
            self.producer.rebuild(Trouble("unacknowledged", text))

    def _add_partitions(self) -> None:
        """Publish to all partitions that the client knows by now; keys move as with any other client."""
        known = self.producer.client.client.cluster
        for output, queues in self._queues.items():
            topic = self._topics[output]
            count = len(known.partitions_for_topic(topic) or ())
            if count > len(queues):
                log.info("partitions added", topic=topic, before=len(queues), now=count)
                queues.extend([PartitionQueue(topic, number) for number in range(len(queues), count)])

    async def _take_back(self) -> None:
        """Wait for nothing any more: what is under way goes back to the heads of the queues."""
        sender, self._sender = self._sender, None
        self._ready.clear()
        if sender is not None:
            await sender.close()
        for queues in self._queues.values():
            for queue in queues:
                queue.put_back()

    def _send_all(self) -> None:
        self._sender = self._make_sender()
        for queues in self._queues.values():
            for queue in queues:
                if queue.pending and not (queue.busy or queue.over):
                    self._schedule(queue)

    @property
    def trouble(self) -> Trouble | None:
        """Why nothing is sent at the moment, where the producer is being made anew."""
        return self.producer.trouble

    @property
    def problem(self) -> str | None:
        """Which topic cannot be published to now, as far as the client knows; None while all can."""
        known = self.producer.client.client.cluster
        missing = [topic for topic in self._topics.values() if not known.partitions_for_topic(topic)]
        if not (self._queues and missing):
            return None
        if missing[0] in known.unauthorized_topics:
            return f"not allowed to write topic {missing[0]!r}"
        return f"topic {missing[0]!r} does not exist any more"

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
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.cancel()
        await self.producer.stop()
