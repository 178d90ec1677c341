"""The sender: what partitions hold, in one request a broker at a time, each until it is acknowledged.

aiokafka's own sends the same requests. Its way to them costs a task, three futures and a place in several
dictionaries for each batch, more than twice as much as all the rest, and the less there is to send the more
of that there is for each query.

A batch that is tried again is the same, byte for byte, under the same sequence number: brokers that have it
know it again. That, and one request at a time, is all that an idempotent producer needs.
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

from fivestage.errors import BrokerError
from fivestage.kafka import aiokafka_internals
from fivestage.kafka.connection.rebuild import STOP_S
from fivestage.kafka.connection.rebuild_policy import Trouble
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
"""The first pause before a batch is sent again; each further one is twice as long, up to LONGEST_RETRY_S."""
LONGEST_RETRY_S: Final = 1.0
LOOK_S: Final = 0.05
"""How often it is seen whose pause is over."""
CLOSE_S: Final = 1.0
"""How long requests may take to end when they are cancelled."""
NUMBERS: Final = 2**31
"""So many sequence numbers there are; the next one is 0 again."""
NO_ANSWER: Final = RequestTimedOutError()

TELL_EVERY_S: Final = 30.0
"""How often the log is told that something cannot be published now."""

log = structlog.get_logger("fivestage.kafka.producer.sender")


class Sender:
    """Sends for as long as its client lives.

    Args:
        producer: Has started its client, and made nothing anew since.
        timeout_ms: How long brokers may take to have a batch on all in-sync replicas.
        drop_unwanted: Called before a batch is filled; may take away what comes first in the queue.
        on_acked: Called with a queue whose batch is acknowledged, before the next one is sent.
        on_refused: Called with a queue whose batch is not taken by any broker, and why.
        on_split: Called with a queue whose batch, sent once, was refused for what is in it; whether it now
            holds something else to send.
        on_throttled: Called with how many seconds a broker makes this wait.
        on_error: Called with an exception that one of these has raised: records may have been lost track of.
    """

    def __init__(
        self,
        producer: Producer,
        *,
        timeout_ms: int,
        drop_unwanted: Callable[[PartitionQueue], None],
        on_acked: Callable[[PartitionQueue], None],
        on_refused: Callable[[PartitionQueue, KafkaError], None],
        on_split: Callable[[PartitionQueue, ContentRefusedError], bool],
        on_throttled: Callable[[float], None],
        on_error: Callable[[BaseException], None],
    ) -> None:
        self._producer = producer
        self._timeout_ms = timeout_ms
        self._drop_unwanted = drop_unwanted
        self._on_acked = on_acked
        self._on_refused = on_refused
        self._on_split = on_split
        self._on_throttled = on_throttled
        self._on_error = on_error
        self._client: Any = producer.client.client
        self._identity = producer.client.identity
        self._numbers = producer.client.numbers
        self._clock = asyncio.get_running_loop().time
        self._waiting: dict[int, deque[PartitionQueue]] = {}
        """By the broker that leads them."""
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._paused: list[PartitionQueue] = []
        self._timer: asyncio.TimerHandle | None = None
        self._told_at = -inf
        self._closed = False

    def __repr__(self) -> str:
        return f"<Sender to {len(self._tasks)} brokers>"

    def send(self, queues: Iterable[PartitionQueue]) -> None:
        """Send what they hold, now and until they are empty; they are busy until then."""
        now = self._clock()
        for queue in queues:
            if queue.sent_at is None:
                queue.sent_at = now
            if (leader := self._leader(queue)) is None:
                continue
            self._waiting.setdefault(leader, deque()).append(queue)
            if leader not in self._tasks and not self._closed:
                self._begin(leader)

    def _leader(self, queue: PartitionQueue) -> int | None:
        """The broker to send to; where there is none, that is dealt with."""
        cluster = self._client.cluster
        leader: int | None = cluster.leader_for_partition(queue.place)
        if leader is not None and leader >= 0:
            return leader
        if queue.place.topic in cluster.unauthorized_topics:
            self._on_refused(queue, TopicAuthorizationFailedError(queue.place.topic))
        else:
            self._try_again(queue, LeaderNotAvailableError())
        return None

    def _begin(self, broker: int) -> None:
        name = f"fivestage sender to {broker}"
        task = asyncio.get_running_loop().create_task(self._serve(broker), name=name)
        self._tasks[broker] = task
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        """Only whoever closes this may end its tasks, and no exception may."""
        if task.cancelled():
            self._producer.rebuild(Trouble("sender_ended", "the send task was cancelled"))
        elif (error := task.exception()) is not None:
            self._on_error(error)

    async def _serve(self, broker: int) -> None:
        """Send request after request to a broker while there is more."""
        while self._producer.trouble is None and (queues := self._next(broker)):
            errors = await self._ask(broker, queues)
            for queue in queues:
                self._answered(queue, errors.get(queue.place, NO_ANSWER))
        del self._tasks[broker]

    def _next(self, broker: int) -> list[PartitionQueue]:
        """Those whose batches go into the next request."""
        waiting, found, size = self._waiting[broker], [], 0
        while waiting and size < self._producer.max_request_bytes:
            queue = waiting.popleft()
            if self._client.cluster.leader_for_partition(queue.place) != broker:  # not any more
                self.send((queue,))
            elif queue.batch or self._fill(queue):
                found.append(queue)
                size += len(queue.batch)
        return found

    def _fill(self, queue: PartitionQueue) -> bool:
        self._drop_unwanted(queue)
        if not queue.pending:
            queue.busy, queue.sent_at = False, None
            return False
        batch = RecordBatch(min(self._producer.max_batch_bytes, queue.room()))
        queue.take(batch)
        queue.number = self._numbers[queue.place]
        self._numbers[queue.place] = (queue.number + len(batch)) % NUMBERS
        queue.batch = batch.encode(*self._identity, queue.number, self._producer.codec)
        return True

    async def _ask(
        self, broker: int, queues: list[PartitionQueue]
    ) -> Mapping[TopicPartition, KafkaError | None]:
        """Send a request; what was wrong with each batch, None with one that the broker has."""
        request = EventRequest(ACKS_OF_ALL, self._timeout_ms, _by_topic(queues))
        for queue in queues:
            queue.attempts += 1
        try:
            answer = await self._client.send(broker, request)
            if answer.throttle_time_ms:
                self._on_throttled(answer.throttle_time_ms / 1000)
            return errors_of(answer)
        except KafkaError as error:
            found: KafkaError = error
        except Exception as error:  # noqa: BLE001 - what else the client raises is a fault of it
            text = f"a request has failed: {type(error).__name__}"
            self._producer.rebuild(Trouble("sender_ended", text))
            found = NO_ANSWER
        waiting = self._waiting[broker]
        while waiting:  # it may lead them no more: they wait until that is known
            self._pause(waiting.popleft())
        return dict.fromkeys((queue.place for queue in queues), found)

    def _answered(self, queue: PartitionQueue, error: KafkaError | None) -> None:
        if error is None:
            self._on_acked(queue)
            if queue.pending:
                self.send((queue,))
            else:
                queue.busy = False
        elif error.retriable:
            self._try_again(queue, error)
        elif isinstance(error, ContentRefusedError) and queue.attempts == 1:  # nothing of it can be there
            self._numbers[queue.place] = queue.number
            if self._on_split(queue, error):
                self.send((queue,))
        else:
            self._on_refused(queue, error)

    def _try_again(self, queue: PartitionQueue, error: KafkaError) -> None:
        if self._producer.trouble is None and self._clock() - self._told_at > TELL_EVERY_S:
            self._told_at = self._clock()
            log.warning("not published yet", **queue.place._asdict(), error_type=type(error).__name__)
        if getattr(error, "invalid_metadata", False) and not aiokafka_internals.is_refreshing(self._client):
            self._client.force_metadata_update()
        self._pause(queue)

    def _pause(self, queue: PartitionQueue) -> None:
        """Try again in a while, when it is known who leads."""
        longest_s = min(LONGEST_RETRY_S, RETRY_S * 2.0 ** min(queue.pauses, 8))
        queue.pauses += 1
        queue.again_at = self._clock() + longest_s * (1 - random.random() / 2)  # noqa: S311 - spreads retries
        self._paused.append(queue)
        self._look_soon()

    def _look_soon(self) -> None:
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._go_on)

    def _go_on(self) -> None:
        self._timer = None
        if not aiokafka_internals.is_refreshing(self._client):
            now = self._clock()
            due = [queue for queue in self._paused if queue.again_at <= now]
            self._paused = [queue for queue in self._paused if queue.again_at > now]
            self.send(due)
        if self._paused:
            self._look_soon()

    def cancel(self) -> None:
        """Send nothing more; what was under way is as it was, and may have arrived."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks.values():
            task.remove_done_callback(self._ended)
            task.cancel()

    async def close(self) -> None:
        """Begin nothing more, wait a little for the answers that are due, then cancel the rest.

        Raises:
            BrokerError: a request does not end.
        """
        self._closed = True
        if self._tasks:  # they end after the request under way: there is trouble
            await asyncio.wait(self._tasks.values(), timeout=STOP_S)
        self.cancel()
        if self._tasks:
            _, left = await asyncio.wait(self._tasks.values(), timeout=CLOSE_S)
            if left:
                raise BrokerError("a request of the old producer does not end")


def _by_topic(queues: list[PartitionQueue]) -> list[tuple[str, list[tuple[int, bytes]]]]:
    topics: dict[str, list[tuple[int, bytes]]] = {}
    for queue in queues:
        topics.setdefault(queue.place.topic, []).append((queue.place.partition, queue.batch))
    return list(topics.items())
