"""The sender on a mock broker: requests, their answers, and what is sent again."""

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
from fivestage.kafka.producer.sink import LATE_LOOKS
from fivestage.settings import KafkaSettings, TopicSettings
from support.mock import PRODUCE
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.mock import Mock

pytestmark = pytest.mark.broker
MOST_BYTES = KafkaSettings().publish_request_bytes


def sender_of(publisher: Publisher) -> Sender:
    """The sender of the moment."""
    sender = publisher.sink._sender
    assert sender is not None
    return sender


def partition_of(key: bytes) -> int:
    """Where a key goes, of the mock's four."""
    return (murmur2(key) & 0x7FFFFFFF) % 4


def intercept(publisher: Publisher, send: Callable[..., Any]) -> None:
    """Have requests go through *send*, which is given the client's own way to send them."""
    client: Any = publisher.sink.producer.client.client
    own = client.send

    async def intercepted(broker: int, request: Any) -> Any:
        return await send(own, broker, request)

    client.send = intercepted


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56, 72, 74, 75])
async def test_what_brokers_refuse_for_a_while(publisher: Publisher, mock: Mock, code: int) -> None:
    """It is sent again until it is taken, once and in order, by the same producer."""
    mock.push(PRODUCE, [code] * 2)
    publisher.publish("a")
    await until(lambda: mock.requests(PRODUCE))
    publisher.publish("b")
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.acked == publisher.written() == ["a", "b"]
    assert (publisher.rebuilds, publisher.failures) == ([], [])


@pytest.mark.parametrize("code", [3, 5, 6, 56, 72, 74, 75])
async def test_where_a_partition_has_gone(publisher: Publisher, mock: Mock, code: int) -> None:
    """What says that another broker leads it makes the client find out which."""
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
    """From a tenth of a second to a second, each of another length, and anew with the next batch."""
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


async def test_what_a_broker_has_already_is_acknowledged(publisher: Publisher, mock: Mock) -> None:
    """An answer that says so is one to a batch that was sent again."""
    mock.push(PRODUCE, [46])
    publisher.publish("a")
    await until(lambda: publisher.acked)
    assert publisher.rebuilds == []


async def test_what_is_sent_again_is_the_same(publisher: Publisher) -> None:
    """Byte for byte, whatever is published meanwhile: a broker that has it must know it again."""
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
    """It is waited for, and others are not held up."""
    cluster: Any = publisher.sink.producer.client.client.cluster
    own, [first, *_] = cluster.leader_for_partition, publisher.sink._queues[Output.RESULTS]
    keys = {partition_of(b"%d" % number): b"%d" % number for number in range(20)}
    cluster.leader_for_partition = lambda place: None if place == first.partition else own(place)
    publisher.publish("led by nobody", key=keys[0])
    publisher.publish("led", key=keys[1])
    await until(lambda: publisher.acked == ["led"])
    assert first.sent_at is not None  # its age is watched
    cluster.leader_for_partition = own
    await until(lambda: len(publisher.acked) == 2)


async def test_sequence_numbers_begin_anew(publisher: Publisher) -> None:
    """After the largest one comes 0, as with Kafka's own producer."""
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
    """What does not fit goes into the next one."""
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
    """Whoever cancelled it, and whatever the client raised: with a new producer, which sends all of it."""

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
    """What raises where records are accounted for may have lost track of some: at once, and not mended."""

    def fail() -> None:
        raise ZeroDivisionError

    publisher.sink.publish([OutputRecord.of(Output.RESULTS, b"key", b"a", [])], fail)
    await until(lambda: publisher.failures)
    assert [str(failure) for failure in publisher.failures] == ["internal error: ZeroDivisionError"]
    assert isinstance(publisher.failures[0], PublishError)
    assert publisher.rebuilds == []


async def test_a_topic_that_is_hidden_from_us(publisher: Publisher) -> None:
    """Without the right to see a topic there is no leader, and what to grant is told at once."""
    cluster: Any = publisher.sink.producer.client.client.cluster
    cluster.leader_for_partition = lambda _: None
    cluster.partitions_for_topic = lambda _: None
    cluster.unauthorized_topics = set(TopicSettings().all)
    publisher.publish("a")
    await until(lambda: publisher.failures)
    assert isinstance(publisher.failures[0], ConfigurationError)
    assert publisher.sink.unready == f"not allowed to write topic {TopicSettings().stage_results!r}"


async def test_what_is_not_wanted_any_more_has_no_age(publisher: Publisher) -> None:
    """A queue that waited for a leader and has nothing to send then is not late."""
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
    publisher.look(LATE_LOOKS)
    assert publisher.rebuilds == []


async def test_a_rebuild_waits_for_answers_that_are_due(publisher: Publisher) -> None:
    """What a healthy broker has under way is not written twice for another's fault."""
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


async def test_after_the_end_nothing_is_sent(publisher: Publisher, mock: Mock) -> None:
    """Also what was published in the same turn: the client would connect again for it."""
    publisher.publish("a")
    await publisher.sink.stop()
    publisher.publish("b")
    await asyncio.sleep(0)
    assert mock.requests(PRODUCE) == 0
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("fivestage sender")]


async def test_brokers_that_are_away_are_told_of_once(publisher: Publisher, mock: Mock) -> None:
    """One line in a while, however many partitions there are and however often they are tried."""
    mock.push(PRODUCE, [19] * 6)
    with structlog.testing.capture_logs() as lines:
        for number in range(20):
            publisher.publish(f"v{number}", key=b"%d" % number)
        await until(lambda: len(publisher.acked) == 20)
    assert [line["event"] for line in lines] == ["not published yet"]


OLD, NEW = 7, 1
"""A broker that is not there, and the mock's own."""


def two_keys() -> tuple[bytes, bytes]:
    """Of two partitions."""
    keys = {partition_of(b"%d" % number): b"%d" % number for number in range(20)}
    return keys[0], keys[1]


async def test_what_waits_goes_to_the_new_leader(publisher: Publisher) -> None:
    """Behind a request under way, a partition may come to be led by another broker."""
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


async def test_a_broker_that_failed_is_asked_again_when_it_is_known_who_leads(publisher: Publisher) -> None:
    """Neither what it was sent, nor what waited behind that, is sent while the client finds out."""
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
