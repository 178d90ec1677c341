"""The sender on a mock broker: requests, responses, and retries."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from aiokafka.errors import KafkaConnectionError

from fivestage.core.records import Output, OutputRecord
from fivestage.errors import ConfigurationError, PublishError
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.kafka.producer.partitioner import murmur2
from fivestage.kafka.producer.sender import SEQUENCE_NUMBERS, Sender
from fivestage.kafka.producer.sink import LATE_CHECKS
from fivestage.settings import KafkaSettings, TopicSettings
from support.mock import PRODUCE
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.mock import Mock

pytestmark = pytest.mark.broker
MOST_BYTES = KafkaSettings().publish_request_bytes


def sender_of(publisher: Publisher) -> Sender:
    """Return the current sender."""
    sender = publisher.sink._sender
    assert sender is not None
    return sender


def partition_of(key: bytes) -> int:
    """Return the partition of a key, of the mock's four."""
    return (murmur2(key) & 0x7FFFFFFF) % 4


def intercept(publisher: Publisher, send: Callable[..., Any]) -> None:
    """Route requests through *send*, which gets the client's own send function."""
    client: Any = publisher.sink.producer.client.client
    own = client.send

    async def intercepted(broker: int, request: Any) -> Any:
        return await send(own, broker, request)

    client.send = intercepted


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56, 72, 74, 75])
async def test_temporarily_rejected_batches(publisher: Publisher, mock: Mock, code: int) -> None:
    """A temporarily rejected batch is retried until accepted, once and in order, by the same producer."""
    mock.push(PRODUCE, [code] * 2)
    publisher.publish("a")
    await until(lambda: mock.requests(PRODUCE))
    publisher.publish("b")
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.acked == publisher.written() == ["a", "b"]
    assert (publisher.rebuilds, publisher.failures) == ([], [])


@pytest.mark.parametrize("code", [3, 5, 6, 56, 72, 74, 75])
async def test_a_moved_partition_leader(publisher: Publisher, mock: Mock, code: int) -> None:
    """Errors of a moved leader make the client refresh its metadata."""
    asked: list[bool] = []
    client: Any = publisher.sink.producer.client.client
    own = client.force_metadata_update

    def force_metadata_update() -> Any:
        asked.append(True)
        return own()

    client.force_metadata_update = force_metadata_update
    mock.push(PRODUCE, [code])
    publisher.publish("a")
    await until(lambda: publisher.acked)
    assert asked


async def test_pauses_grow(publisher: Publisher) -> None:
    """Pauses grow from 0.1 s to a second, with jitter, and restart with the next batch."""
    sender, [queue, *_] = sender_of(publisher), publisher.sink._queues[Output.RESULTS]
    sender._closed = True  # no timer
    sender._clock = lambda: 0.0
    pauses = []
    for _ in range(8):
        sender._pause(queue)
        pauses.append(queue.retry_at)
    most = [0.1, 0.2, 0.4, 0.8, 1.0, 1.0, 1.0, 1.0]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, most, strict=True))
    assert len(set(pauses[4:])) == 4
    queue.settle()
    assert queue.retries == 0


async def test_a_duplicate_batch_is_acknowledged(publisher: Publisher, mock: Mock) -> None:
    """A duplicate response to a retried batch counts as an acknowledgement."""
    mock.push(PRODUCE, [46])
    publisher.publish("a")
    await until(lambda: publisher.acked)
    assert publisher.rebuilds == []


async def test_a_retry_is_identical(publisher: Publisher) -> None:
    """A retry is byte-identical, whatever is published meanwhile, so that the broker detects it."""
    sent: list[list[tuple[str, list[tuple[int, bytes]]]]] = []

    async def lose_the_answer(own: Callable[..., Any], broker: int, request: Any) -> Any:
        sent.append(request._topics)
        answer = await own(broker, request)
        if len(sent) == 1:
            publisher.publish("b")
            raise KafkaConnectionError
        return answer

    intercept(publisher, lose_the_answer)
    publisher.publish("a")
    await until(lambda: len(publisher.acked) == 2)
    assert sent[0] == sent[1] != sent[2]
    assert publisher.rebuilds == []


async def test_a_partition_without_a_leader(publisher: Publisher) -> None:
    """A partition without a leader waits, and does not delay others."""
    cluster: Any = publisher.sink.producer.client.client.cluster
    own, [first, *_] = cluster.leader_for_partition, publisher.sink._queues[Output.RESULTS]
    keys = {partition_of(b"%d" % number): b"%d" % number for number in range(20)}
    cluster.leader_for_partition = lambda place: None if place == first.partition else own(place)
    publisher.publish("without a leader", key=keys[0])
    publisher.publish("led", key=keys[1])
    await until(lambda: publisher.acked == ["led"])
    assert first.sent_at is not None  # its age is watched
    cluster.leader_for_partition = own
    await until(lambda: len(publisher.acked) == 2)


async def test_sequence_numbers_wrap_around(publisher: Publisher) -> None:
    """After the largest sequence number comes 0, as with Kafka's own producer."""
    queue = publisher.sink._queues[Output.RESULTS][partition_of(b"key")]
    numbers = sender_of(publisher)._numbers
    numbers[queue.partition] = SEQUENCE_NUMBERS - 2
    publisher.publish("a", "b", "c", "d", "e")
    await until(lambda: len(publisher.acked) == 5)
    assert numbers[queue.partition] == 3
    publisher.publish("f")
    await until(lambda: len(publisher.acked) == 6)
    assert publisher.written() == ["a", "b", "c", "d", "e", "f"]


async def test_a_request_has_a_size(publisher: Publisher) -> None:
    """Records beyond a request's size go into the next one."""
    requests: list[int] = []

    async def weigh(own: Callable[..., Any], broker: int, request: Any) -> Any:
        requests.append(sum(len(data) for _, found in request._topics for _, data in found))
        return await own(broker, request)

    intercept(publisher, weigh)
    large = "x" * (MOST_BYTES // 2)
    for number in range(40):
        publisher.publish(large, key=b"%d" % number)
    await until(lambda: len(publisher.acked) == 40)
    assert max(requests) <= MOST_BYTES * 1.6
    assert len(requests) > 40 / 4


async def test_a_task_that_ends_is_replaced(publisher: Publisher, mock: Mock) -> None:
    """A dead task is replaced with a new producer, which sends everything, whatever ended it."""

    async def fail(own: Callable[..., Any], broker: int, request: Any) -> Any:  # noqa: ARG001 - the client's
        raise ZeroDivisionError

    intercept(publisher, fail)
    publisher.publish("a")
    await until(lambda: publisher.acked == ["a"])
    assert publisher.rebuilds == ["producer sender_ended"]
    mock.slow_down(100)
    publisher.publish("b")
    await until(lambda: mock.requests(PRODUCE) > 1)
    for task in asyncio.all_tasks():
        if task.get_name().startswith("fivestage sender"):
            task.cancel()
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.rebuilds == ["producer sender_ended"] * 2
    assert publisher.failures == []


async def test_a_bug_of_ours_ends_the_service(publisher: Publisher) -> None:
    """An error in the accounting of records may have lost some: it ends the service at once."""

    def fail() -> None:
        raise ZeroDivisionError

    publisher.sink.publish([OutputRecord.of(Output.RESULTS, b"key", b"a", [])], fail)
    await until(lambda: publisher.failures)
    assert [str(failure) for failure in publisher.failures] == ["internal error: ZeroDivisionError"]
    assert isinstance(publisher.failures[0], PublishError)
    assert publisher.rebuilds == []


async def test_a_topic_that_is_hidden_from_us(publisher: Publisher) -> None:
    """Without the right to describe a topic there is no leader; the error names the right at once."""
    cluster: Any = publisher.sink.producer.client.client.cluster
    cluster.leader_for_partition = lambda _: None
    cluster.partitions_for_topic = lambda _: None
    cluster.unauthorized_topics = set(TopicSettings().all)
    publisher.publish("a")
    await until(lambda: publisher.failures)
    assert isinstance(publisher.failures[0], ConfigurationError)
    assert publisher.sink.unready == f"not allowed to write topic {TopicSettings().stage_results!r}"


async def test_dropped_records_have_no_age(publisher: Publisher) -> None:
    """A queue that waited for a leader and then has nothing to send is not late."""
    cluster: Any = publisher.sink.producer.client.client.cluster
    own, queue = cluster.leader_for_partition, publisher.sink._queues[Output.RESULTS][partition_of(b"key")]
    wanted = True
    cluster.leader_for_partition = lambda _: None
    record = OutputRecord.of(Output.RESULTS, b"key", b"a", [])
    publisher.sink.publish([record], lambda: publisher.acked.append("a"), lambda: wanted)
    await until(lambda: queue.sent_at)
    wanted = False
    cluster.leader_for_partition = own
    await until(lambda: publisher.acked)
    assert (queue.busy, queue.sent_at) == (False, None)
    publisher.look(LATE_CHECKS)
    assert publisher.rebuilds == []


async def test_a_rebuild_waits_for_answers_that_are_due(publisher: Publisher) -> None:
    """A rebuild waits for requests in flight to healthy brokers, which are not written twice."""
    sender, written, may_answer = sender_of(publisher), asyncio.Event(), asyncio.Event()

    async def answer_late(own: Callable[..., Any], broker: int, request: Any) -> Any:
        answer = await own(broker, request)
        written.set()
        await may_answer.wait()
        return answer

    intercept(publisher, answer_late)
    publisher.publish("a")
    await written.wait()
    publisher.sink.producer.rebuild(ClientFault("other", "another broker refused a batch"))
    publisher.publish("b")
    await until(lambda: sender._closed)
    may_answer.set()
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.written() == ["a", "b"]
    assert publisher.rebuilds == ["producer other"]


async def test_nothing_is_sent_after_the_stop(publisher: Publisher, mock: Mock) -> None:
    """Nothing is sent after the stop, also when published in the same turn: the client would reconnect."""
    publisher.publish("a")
    await publisher.sink.stop()
    publisher.publish("b")
    await asyncio.sleep(0)
    assert mock.requests(PRODUCE) == 0
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("fivestage sender")]


async def test_unreachable_brokers_are_logged_once(publisher: Publisher, mock: Mock) -> None:
    """Unreachable brokers are logged once in a while, for any number of partitions and attempts."""
    mock.push(PRODUCE, [19] * 6)
    with structlog.testing.capture_logs() as lines:
        for number in range(20):
            publisher.publish(f"v{number}", key=b"%d" % number)
        await until(lambda: len(publisher.acked) == 20)
    assert [line["event"] for line in lines] == ["not published yet"]


OLD, NEW = 7, 1
"""A broker that does not exist, and the mock's own."""


def two_keys() -> tuple[bytes, bytes]:
    """Return keys of two partitions."""
    keys = {partition_of(b"%d" % number): b"%d" % number for number in range(20)}
    return keys[0], keys[1]


async def test_waiting_batches_go_to_the_new_leader(publisher: Publisher) -> None:
    """Batches behind a request in flight go to the new leader."""
    asked, may_answer, (first, second) = [], asyncio.Event(), two_keys()
    cluster: Any = publisher.sink.producer.client.client.cluster

    async def answer_late(own: Callable[..., Any], broker: int, request: Any) -> Any:
        asked.append(broker)
        await may_answer.wait()
        return await own(NEW, request)

    intercept(publisher, answer_late)
    own = cluster.leader_for_partition
    cluster.leader_for_partition = lambda _: OLD
    publisher.publish("under way", key=first)
    await until(lambda: asked == [OLD])
    publisher.publish("waiting", key=second)
    await until(lambda: sender_of(publisher)._waiting[OLD])
    cluster.leader_for_partition = own
    may_answer.set()
    await until(lambda: len(publisher.acked) == 2)
    assert asked == [OLD, NEW]


async def test_a_retry_waits_for_the_leader_to_be_known(publisher: Publisher) -> None:
    """Neither the failed batch nor later ones are sent while the client refreshes its metadata."""
    asked, may_fail, (first, second) = [], asyncio.Event(), two_keys()
    client: Any = publisher.sink.producer.client.client
    sender, timers = sender_of(publisher), []

    async def fail(own: Callable[..., Any], broker: int, request: Any) -> Any:
        asked.append(broker)
        if broker == OLD:
            await may_fail.wait()
            raise KafkaConnectionError
        return await own(broker, request)

    def look() -> int:
        if sender._timer not in timers:
            timers.append(sender._timer)
        return len(timers)

    intercept(publisher, fail)
    own = client.cluster.leader_for_partition
    client.cluster.leader_for_partition = lambda _: OLD
    publisher.publish("under way", key=first)
    await until(lambda: asked == [OLD])
    publisher.publish("waiting", key=second)
    await until(lambda: sender._waiting[OLD])
    client._md_update_fut = asyncio.get_running_loop().create_future()
    may_fail.set()
    await until(lambda: look() > 4 or len(asked) > 1)
    assert asked == [OLD]
    client.cluster.leader_for_partition, client._md_update_fut = own, None
    await until(lambda: len(publisher.acked) == 2)
    assert asked == [OLD, NEW]
