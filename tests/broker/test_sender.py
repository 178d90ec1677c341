"""The sender on a mock broker: requests, their answers, and what is sent again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka.errors import KafkaConnectionError

from faults.mock import PRODUCE
from fivestage.bus.sender import MAX_REQUEST_BYTES, NUMBERS, Sender
from fivestage.core.murmur2 import murmur2
from fivestage.core.records import Output
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from faults.mock import Mock

pytestmark = pytest.mark.broker


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


@pytest.mark.parametrize("code", [3, 5, 6, 7, 19, 20, 56])
async def test_what_brokers_refuse_for_a_while(publisher: Publisher, mock: Mock, code: int) -> None:
    """It is sent again until it is taken, once and in order, by the same producer."""
    mock.push(PRODUCE, [code] * 2)
    publisher.publish("a")
    await until(lambda: mock.requests(PRODUCE))
    publisher.publish("b")
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.acked == publisher.written() == ["a", "b"]
    assert (publisher.rebuilds, publisher.failures) == ([], [])


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
    cluster.leader_for_partition = lambda place: None if place == first.place else own(place)
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
    numbers[queue.place] = NUMBERS - 2
    publisher.publish("a", "b", "c", "d", "e")
    await until(lambda: len(publisher.acked) == 5)
    assert numbers[queue.place] == 3
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
    large = "x" * (MAX_REQUEST_BYTES // 2)
    for number in range(40):
        publisher.publish(large, key=b"%d" % number)
    await until(lambda: len(publisher.acked) == 40)
    assert max(requests) <= MAX_REQUEST_BYTES * 1.6
    assert len(requests) > 40 / 4


async def test_a_task_that_ends_is_replaced(publisher: Publisher, mock: Mock) -> None:
    """Whoever cancelled it, and whatever it raised: with a new producer, which sends all of it."""

    async def fail(own: Callable[..., Any], broker: int, request: Any) -> Any:  # noqa: ARG001 - the client's
        raise ZeroDivisionError

    intercept(publisher, fail)
    publisher.publish("a")
    await until(lambda: publisher.acked == ["a"])
    assert publisher.rebuilds == ["producer sender_ended"]
    mock.slow_down(300)
    publisher.publish("b")
    await until(lambda: mock.requests(PRODUCE) > 1)
    for task in asyncio.all_tasks():
        if task.get_name().startswith("fivestage sender"):
            task.cancel()
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.rebuilds == ["producer sender_ended"] * 2
    assert publisher.failures == []
