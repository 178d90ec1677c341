"""The event sink on a mock broker: when its producer is rebuilt, and what is published again."""

from __future__ import annotations

import asyncio
import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
from aiokafka import TopicPartition
from aiokafka.partitioner import murmur2
from aiokafka.producer.message_accumulator import MessageAccumulator

from fivestage.core.records import Output, OutputRecord
from fivestage.errors import ConfigurationError, PublishError
from fivestage.kafka.aiokafka_internals import abort_producer
from fivestage.kafka.connection.rebuild_policy import ClientFault
from fivestage.kafka.producer.produce_request import EventRequest
from fivestage.kafka.producer.sink import LATE_CHECKS
from fivestage.settings import TopicSettings
from support.checker import read_all
from support.mock import PRODUCE
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from support.mock import Mock

pytestmark = pytest.mark.broker


@pytest.mark.fault(27)
async def test_a_batch_that_is_refused(publisher: Publisher, mock: Mock) -> None:
    """A rejected batch and later records are published once, in order, and acknowledged once."""
    mock.push(PRODUCE, [45])
    publisher.publish("a", "b")
    await until(lambda: publisher.sink.fault)
    publisher.publish("c")
    await until(lambda: len(publisher.acked) == 3)
    assert publisher.acked == publisher.written() == ["a", "b", "c"]
    assert publisher.rebuilds == ["producer OutOfOrderSequenceNumber"]
    assert publisher.failures == []


async def test_a_batch_that_is_not_acknowledged(publisher: Publisher, mock: Mock) -> None:
    """After some late acknowledgements a batch gets a new producer, and goes out before later ones."""
    mock.slow_down(10_000)
    publisher.publish("a")
    await until(lambda: mock.requests(PRODUCE))
    publisher.publish("b")
    publisher.look(LATE_CHECKS - 1)
    publisher.sink.look(asyncio.get_running_loop().time())  # in time by a clock that does not jump
    publisher.look(LATE_CHECKS - 1)
    assert publisher.sink.fault is None
    publisher.look(1)
    assert publisher.sink.fault is not None
    mock.slow_down(0)
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.acked == ["a", "b"]
    assert publisher.written() in (["a", "a", "b"], ["a", "b"])
    assert publisher.rebuilds == ["producer unacknowledged"]


async def test_brokers_that_are_away_meanwhile(publisher: Publisher, mock: Mock) -> None:
    """A new producer is retried until the brokers are back; then everything is published, for one rebuild."""
    mock.go_away()
    publisher.publish("a")
    await until(lambda: publisher.sink._sender and publisher.sink._sender._paused)
    publisher.look(LATE_CHECKS)
    publisher.publish("b")
    refused = mock.refused()
    await until(lambda: mock.refused() > refused + 2)
    assert publisher.acked == []
    mock.come_back()
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.acked == publisher.written() == ["a", "b"]
    assert publisher.rebuilds == ["producer unacknowledged"]
    assert publisher.failures == []


@pytest.mark.parametrize(("code", "kind"), [(17, PublishError), (29, ConfigurationError)])
async def test_permanent_errors_fail_at_once(
    publisher: Publisher, mock: Mock, code: int, kind: type[Exception]
) -> None:
    """An invalid topic or a missing right fails at once: another producer would not help."""
    mock.push(PRODUCE, [code])
    publisher.publish("a")
    await until(lambda: publisher.failures)
    assert [type(failure) for failure in publisher.failures] == [kind]
    assert publisher.rebuilds == []


async def test_answers_of_revoked_partitions_are_dropped(publisher: Publisher, mock: Mock) -> None:
    """Answers of revoked partitions are not published late, and count as acknowledged."""
    mock.slow_down(100)
    publisher.publish("a")
    await until(lambda: mock.requests(PRODUCE))
    wanted = {"b": True, "c": True}
    for value in wanted:
        record = OutputRecord.of(Output.RESULTS, b"key", value.encode(), [])
        publisher.sink.publish(
            [record],
            functools.partial(publisher.acked.append, value),
            functools.partial(wanted.__getitem__, value),
        )
    wanted["b"] = False
    await until(lambda: len(publisher.acked) == 3)
    assert publisher.written() == ["a", "c"]


async def test_replacing_a_producer_logs_no_loop_error() -> None:
    """Replacing a producer logs no loop error, also with a batch that waits for its retry."""
    raised: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: raised.append(context))
    cluster = SimpleNamespace(leader_for_partition=lambda _: 1)
    accumulator = MessageAccumulator(cluster, 16_384, 0, 15, loop=loop)
    batch = accumulator.create_builder()
    batch.append(timestamp=None, key=None, value=b"a", headers=[])
    batch.close()
    place = TopicPartition("results", 0)
    acked = await accumulator.add_batch(batch, place, 5)
    drained, _ = accumulator.drain_by_nodes(ignore_nodes=set())
    accumulator.reenqueue(drained[1][place])
    sender = SimpleNamespace(sender_task=loop.create_task(asyncio.sleep(60)))
    connections = SimpleNamespace(_sync_task=None, _conns={})
    abort_producer(
        cast("Any", SimpleNamespace(_message_accumulator=accumulator, _sender=sender, client=connections))
    )
    await asyncio.wait({sender.sender_task})
    assert (acked.cancelled(), sender.sender_task.cancelled(), raised) == (True, True, [])


@pytest.mark.fault(37)
async def test_idle_connections_to_a_broker_that_is_doubted(publisher: Publisher, mock: Mock) -> None:
    """Idle connections to a suspect broker are closed; connections with requests in flight are kept."""
    publisher.publish("a")
    await until(lambda: publisher.acked)
    client: Any = publisher.sink.producer.client.client
    [idle] = client._conns.values()
    publisher.sink.producer.close_idle_connections(idle.host, idle.port + 1)
    assert idle.connected()
    publisher.sink.producer.close_idle_connections(idle.host, idle.port)
    assert not idle.connected()
    mock.slow_down(100)
    publisher.publish("b")
    await until(lambda: mock.requests(PRODUCE) == 2)
    [busy] = client._conns.values()
    publisher.sink.producer.close_idle_connections(busy.host, busy.port)
    assert busy.connected()
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.written() == ["a", "b"]
    assert publisher.rebuilds == []


async def test_keys_are_partitioned_as_by_other_clients(publisher: Publisher, mock: Mock) -> None:
    """Keys are partitioned by the hash of Kafka's own producer."""
    keys = [b"key-%d" % number for number in range(30)]
    acked: list[bytes] = []
    for key in keys:
        record = OutputRecord.of(Output.RESULTS, key, b"value", [])
        publisher.sink.publish([record], functools.partial(acked.append, key))
    await until(lambda: len(acked) == len(keys))
    found = read_all(mock.bootstrap, TopicSettings().results)
    count = len(publisher.sink._queues[Output.RESULTS])
    assert count > 1
    assert {one.key(): one.partition() for one in found} == {
        key: (murmur2(key) & 0x7FFFFFFF) % count for key in keys
    }


async def test_partitions_that_are_added(publisher: Publisher) -> None:
    """Added partitions are used once the client knows them, with the same keys as other clients."""
    queues = publisher.sink._queues[Output.RESULTS]
    cluster: Any = publisher.sink.producer.client.client.cluster
    assert len(queues) == 4
    cluster.partitions_for_topic = lambda _: {0, 1, 2, 3, 4, 5, 6}
    publisher.sink.look(0.0)
    key = next(key for key in (b"%d" % number for number in range(99)) if _place(key, 7) == 6)
    publisher.sink.publish([OutputRecord.of(Output.RESULTS, key, b"value", [])], lambda: None)
    assert [len(queue.pending) for queue in queues] == [0, 0, 0, 0, 0, 0, 1]
    cluster.partitions_for_topic = lambda _: None  # the topic is gone for a while: none of its queues is
    publisher.sink.look(0.0)
    assert len(queues) == 7


async def test_partitions_that_are_removed(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a topic that was created again with fewer partitions, the records of the others are published."""
    queues = publisher.sink._queues[Output.RESULTS]
    key = next(key for key in (b"%d" % number for number in range(99)) if _place(key, 4) == 3)
    monkeypatch.setattr(publisher.sink.producer, "partition_count", lambda _: 2)
    publisher.sink.producer.rebuild(ClientFault("unacknowledged", "a partition has no leader"))
    publisher.publish("a", "b", key=key)
    assert len(queues[3].pending) == 2
    await until(lambda: len(publisher.acked) == 2)
    assert len(queues) == 2
    assert publisher.acked == publisher.written() == ["a", "b"]


def _place(key: bytes, partitions: int) -> int:
    return int(murmur2(key) & 0x7FFFFFFF) % partitions


async def test_brokers_without_a_common_version(
    publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a common request version nothing is sent, and the failure names the versions."""

    def prepare(request: EventRequest, _: object) -> Any:
        return own(request, {0: (8, 13)})

    own = EventRequest.prepare
    monkeypatch.setattr(EventRequest, "prepare", prepare)
    publisher.publish("a")
    await until(lambda: publisher.failures)
    assert "versions 8 to 13 of produce requests, fivestage 3 to 7" in str(publisher.failures[0])
    assert publisher.rebuilds == []


async def test_requests_are_written_in_one_go(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """The producer sends this project's requests, and the broker accepts them."""
    encoded: list[bytes] = []
    own = EventRequest._encode

    def encode(request: EventRequest) -> bytes:
        encoded.append(own(request))
        return encoded[-1]

    monkeypatch.setattr(EventRequest, "_encode", encode)
    publisher.publish("written")
    await until(lambda: publisher.acked)
    assert [b"written" in request for request in encoded] == [True]
