"""Sends partition queues, one request per broker at a time, and retries until their records are acknowledged.

aiokafka's sender sends the same requests, but creates a task, three futures and several dictionary entries
for each batch. That costs more than twice as much CPU as everything else here, and more per query the smaller
the batches are.

A retry sends the same bytes with the same sequence number, so a broker recognises a batch that it has already
stored. Together with one request at a time per broker, that makes the producer idempotent.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Any, Final

import structlog
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    RequestTimedOutError,
    TopicAuthorizationFailedError,
)

from fivestage.core.backoff import backoff_s
from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild import STOP_S
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.kafka.producer.produce_request import EventRequest
from fivestage.kafka.producer.produce_response import ContentRefusedError, errors_of
from fivestage.kafka.producer.record_batch import RecordBatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aiokafka import TopicPartition

    from fivestage.kafka.producer.partition_queue import PartitionQueue
    from fivestage.kafka.producer.producer import Producer

ACKS_OF_ALL: Final = -1
RETRY_S: Final = 0.1
"""Seconds before the first retry; each further pause is twice as long, up to LONGEST_RETRY_S."""
LONGEST_RETRY_S: Final = 1.0
CHECK_PAUSES_S: Final = 0.05
CLOSE_S: Final = 1.0
"""Seconds that cancelled requests may take to end."""
SEQUENCE_NUMBERS: Final = 2**31
"""The count of sequence numbers; after the last one comes 0."""
TIMED_OUT: Final = RequestTimedOutError()
LOG_EVERY_S: Final = 30.0
"""Least seconds between two log lines about batches that are retried."""

log = structlog.get_logger("fivestage.kafka.producer.sender")


class Sender:
    """Sends queues with one client; a new client gets a new sender.

    Args:
        producer: Its client is started.
        drop_unwanted: Called before a batch is filled; may remove records from the front of the queue.
        on_acked: Called with a queue whose batch was acknowledged, before the next one is sent.
        on_rejected: Called with a queue whose batch cannot be published by a retry, and the error.
        on_content_refused: Called with a queue whose batch was rejected for its content at the first attempt;
            returns whether the queue now has something else to send.
        on_error: Called with an unexpected exception in a send task, such as one that a callback raised.
    """

    def __init__(
        self,
        producer: Producer,
        *,
        drop_unwanted: Callable[[PartitionQueue], None],
        on_acked: Callable[[PartitionQueue], None],
        on_rejected: Callable[[PartitionQueue, KafkaError], None],
        on_content_refused: Callable[[PartitionQueue, ContentRefusedError], bool],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._producer = producer
        self._drop_unwanted = drop_unwanted
        self._on_acked = on_acked
        self._on_rejected = on_rejected
        self._on_content_refused = on_content_refused
        self._on_error = on_error
        self._client: Any = producer.client.client
        self._identity = producer.client.identity
        self._numbers = producer.client.numbers
        self._clock = asyncio.get_running_loop().time
        self._waiting: dict[int, deque[PartitionQueue]] = {}
        """The queues to send, by the broker that leads the partition."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._paused: list[PartitionQueue] = []
        self._timer: asyncio.TimerHandle | None = None
        self._logged_at = -inf
        self._closed = False

    def __repr__(self) -> str:
        return f"<Sender to {len(self._tasks)} brokers>"

    def send(self, queues: Iterable[PartitionQueue]) -> None:
        """Send queues until they are empty; they are busy until then."""
        now = self._clock()
        for queue in queues:
            if queue.sent_at is None:
                queue.sent_at = now
            if (leader := self._leader(queue)) is None:
                continue
            self._waiting.setdefault(leader, deque()).append(queue)
            if leader not in self._tasks and not self._closed:
                self._start_serving(leader)

    def _leader(self, queue: PartitionQueue) -> int | None:
        """The leader of a partition; without one, None, and the queue is retried or rejected."""
        cluster = self._client.cluster
        leader: int | None = cluster.leader_for_partition(queue.partition)
        if leader is not None and leader >= 0:
            return leader
        if queue.partition.topic in cluster.unauthorized_topics:
            self._on_rejected(queue, TopicAuthorizationFailedError(queue.partition.topic))
        else:
            self._try_again(queue, LeaderNotAvailableError())
        return None

    def _start_serving(self, broker: int) -> None:
        name = f"fivestage sender to {broker}"
        task = asyncio.get_running_loop().create_task(self._serve(broker), name=name)
        self._tasks[broker] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Report a task that was cancelled, but not by ``cancel``, or that raised."""
        if task.cancelled():
            self._producer.rebuild(ClientFault("sender_ended", "the send task was cancelled"))
        elif (error := task.exception()) is not None:
            self._on_error(error)

    async def _serve(self, broker: int) -> None:
        """Send requests to one broker until no queue is left for it."""
        while self._producer.fault is None and (queues := self._next(broker)):
            errors = await self._ask(broker, queues)
            for queue in queues:
                self._answered(queue, errors.get(queue.partition, TIMED_OUT))
        del self._tasks[broker]

    def _next(self, broker: int) -> list[PartitionQueue]:
        """Fill the next request to a broker; returns its queues, each with a batch."""
        waiting, found, size = self._waiting[broker], [], 0
        while waiting and size < self._producer.max_request_bytes:
            queue = waiting.popleft()
            leader = self._client.cluster.leader_for_partition(queue.partition)
            if leader != broker:  # the leader has changed since
                self.send((queue,))
            elif queue.batch or self._fill(queue):
                found.append(queue)
                size += len(queue.batch)
        return found

    def _fill(self, queue: PartitionQueue) -> bool:
        """Fill the batch of a queue; False if the queue is empty."""
        self._drop_unwanted(queue)
        if not queue.pending:
            queue.busy, queue.sent_at = False, None
            return False
        batch = RecordBatch(min(self._producer.max_batch_bytes, queue.size_next_batch()))
        queue.take(batch)
        queue.sequence = self._numbers[queue.partition]
        self._numbers[queue.partition] = (queue.sequence + len(batch)) % SEQUENCE_NUMBERS
        queue.batch = batch.encode(*self._identity, queue.sequence, self._producer.codec)
        return True

    async def _ask(
        self, broker: int, queues: list[PartitionQueue]
    ) -> Mapping[TopicPartition, KafkaError | None]:
        """Send a request; returns the error of each batch, None for a batch that is stored."""
        request = EventRequest(ACKS_OF_ALL, self._producer.request_timeout_ms, _batches_by_topic(queues))
        for queue in queues:
            queue.attempts += 1
        try:
            answer = await self._client.send(broker, request)
            if answer.throttle_time_ms:
                self._producer.on_throttled(answer.throttle_time_ms / 1000)
            return errors_of(answer)
        except KafkaError as error:
            found: KafkaError = error
        except Exception as error:  # noqa: BLE001 - anything else shows that the client is broken
            text = f"a request has failed: {type(error).__name__}"
            self._producer.rebuild(ClientFault("sender_ended", text))
            found = TIMED_OUT
        waiting = self._waiting[broker]
        while waiting:  # their leader may have changed: wait for new metadata
            self._pause(waiting.popleft())
        return dict.fromkeys((queue.partition for queue in queues), found)

    def _answered(self, queue: PartitionQueue, error: KafkaError | None) -> None:
        if error is None:
            self._on_acked(queue)
            if queue.pending:
                self.send((queue,))
            else:
                queue.busy = False
        elif error.retriable:
            self._try_again(queue, error)
        elif isinstance(error, ContentRefusedError) and queue.attempts == 1:  # no part is stored
            self._numbers[queue.partition] = queue.sequence
            if self._on_content_refused(queue, error):
                self.send((queue,))
        else:
            self._on_rejected(queue, error)

    def _try_again(self, queue: PartitionQueue, error: KafkaError) -> None:
        if self._producer.fault is None and self._clock() - self._logged_at > LOG_EVERY_S:
            self._logged_at = self._clock()
            log.warning("not published yet", **queue.partition._asdict(), error_type=type(error).__name__)
        refreshing = aiokafka_internals.is_refreshing_metadata(self._client)
        if getattr(error, "invalid_metadata", False) and not refreshing:
            self._client.force_metadata_update()
        self._pause(queue)

    def _pause(self, queue: PartitionQueue) -> None:
        """Retry a queue after a pause, which goes on while metadata is being requested."""
        jitter = random.random()  # noqa: S311 - spreads retries
        pause_s = backoff_s(queue.retries, jitter, first_s=RETRY_S, max_s=LONGEST_RETRY_S)
        queue.retries += 1
        queue.retry_at = self._clock() + pause_s
        self._paused.append(queue)
        self._set_timer()

    def _set_timer(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(CHECK_PAUSES_S, self._resume_paused)

    def _resume_paused(self) -> None:
        self._timer = None
        if not aiokafka_internals.is_refreshing_metadata(self._client):
            now = self._clock()
            due = [queue for queue in self._paused if queue.retry_at <= now]
            self._paused = [queue for queue in self._paused if queue.retry_at > now]
            self.send(due)
        if self._paused:
            self._set_timer()

    def cancel(self) -> None:
        """Stop at once. Batches in flight may have been stored."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks.values():
            task.remove_done_callback(self._ended)
            task.cancel()

    async def close(self) -> None:
        """Start no more requests, wait a little for the ones in flight, then cancel these.

        Raises:
            BrokerError: a request ignores its cancellation.
        """
        self._closed = True
        if self._tasks:  # each ends after its request, because the producer has a fault
            await asyncio.wait(self._tasks.values(), timeout=STOP_S)
        self.cancel()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks.values(), timeout=CLOSE_S)
            if left:
                raise BrokerError("a request of the old producer does not end")


def _batches_by_topic(queues: list[PartitionQueue]) -> list[tuple[str, list[tuple[int, bytes]]]]:
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for queue in queues:
        topics.setdefault(queue.partition.topic, []).append((queue.partition.partition, queue.batch))
    return list(topics.items())
