"""The sender on a real broker, which knows what it has already, as the mock does not."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError
from aiokafka.record.default_records import DefaultRecordBatch
from confluent_kafka import Producer

from fivestage.core.records import Output, OutputRecord
from fivestage.kafka.producer.produce_request import EventRequest
from fivestage.kafka.producer.sender import SEQUENCE_NUMBERS
from fivestage.settings import Settings
from support.operations import Operator
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .broker import RealBroker, TopicSet


def publisher_of(kafka: RealBroker, topics: TopicSet, **more: object) -> Publisher:
    """A sink on these topics, with more settings of Kafka's."""
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    given = {"topics": {name: getattr(topics, name) for name in names}}
    return Publisher(Settings.load(None, {"kafka": {"bootstrap_servers": kafka.bootstrap, **more}, **given}))


@pytest.fixture
async def publisher(kafka: RealBroker, topics: TopicSet) -> AsyncIterator[Publisher]:
    """A sink that has started."""
    publisher = publisher_of(kafka, topics)
    await publisher.sink.start()
    yield publisher
    await publisher.sink.stop()


async def test_what_is_sent_again_is_there_once(publisher: Publisher) -> None:
    """Answers are lost, batches come twice, and records do not."""
    client: Any = publisher.sink.producer.client.client
    own, asked = client.send, []

    async def lose_every_other_answer(broker: int, request: Any) -> Any:
        answer = await own(broker, request)
        if not isinstance(request, EventRequest):  # it asks who leads, now and then
            return answer
        asked.append(request)
        if len(asked) % 2:
            raise KafkaConnectionError
        return answer

    client.send = lose_every_other_answer
    values = [f"v{number}" for number in range(10)]
    for count, value in enumerate(values, start=1):
        publisher.publish(value)
        await until(lambda: len(publisher.acked) == count)  # noqa: B023 - awaited here
    assert len(asked) == 2 * len(values)
    assert publisher.written() == values
    assert publisher.rebuilds == []


async def test_sequence_numbers_begin_anew(publisher: Publisher, topics: TopicSet) -> None:
    """A batch may begin before the largest number and end after it; the broker takes what follows."""
    sender = publisher.sink._sender
    assert sender is not None
    for number in range(topics.partitions):
        sender._numbers[TopicPartition(topics.results, number)] = SEQUENCE_NUMBERS - 2
    publisher.publish("a", "b", "c", "d", "e")
    await until(lambda: len(publisher.acked) == 5)
    publisher.publish("f")
    await until(lambda: len(publisher.acked) == 6)
    assert publisher.written() == ["a", "b", "c", "d", "e", "f"]
    assert publisher.rebuilds == []


def result(answer: str, key: bytes | None = b"key") -> OutputRecord:
    """What stands for a result with data."""
    value = orjson.dumps({"status": "success", "answer": answer, "error_type": None, "stages": []})
    return OutputRecord.of(Output.RESULTS, key, value, [("ce_id", b"queries/0/1/result")])


PROBE = b"the probe "


def until_refused(kafka: RealBroker, topic: str, key: bytes | None, value: bytes) -> None:
    """Write a record again and again until the broker refuses it: properties change when it has time."""
    errors: list[object] = [None]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    while errors[-1] is None:
        producer.produce(topic, value, key, on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(20) == 0


async def test_what_has_become_too_large(publisher: Publisher, kafka: RealBroker, topics: TopicSet) -> None:
    """A topic that takes less than at the start costs the answers that are larger: the rest has no gap."""
    Operator(kafka.bootstrap).limit_records(topics.results, 5_000)
    await asyncio.to_thread(until_refused, kafka, topics.results, b"k", PROBE * 600)
    answers = ["a" * 100, "b" * 6_000, "c" * 100, *("d" * 900 for _ in range(20)), "e" * 7_000, "f"]
    for answer in answers:
        publisher.sink.publish([result(answer)], lambda: publisher.acked.append(""))
    await until(lambda: len(publisher.acked) == len(answers))
    found = [orjson.loads(value) for value in publisher.written() if not value.startswith(PROBE.decode())]
    assert [one["answer"] for one in found] == [None if len(one) > 5_000 else one for one in answers]
    assert [one["error_type"] for one in found if one["answer"] is None] == ["result_too_large"] * 2
    publisher.publish("the next")
    await until(lambda: len(publisher.acked) == len(answers) + 1)
    assert (publisher.rebuilds, publisher.failures) == ([], [])


async def test_what_a_compacted_topic_refuses(
    publisher: Publisher, kafka: RealBroker, topics: TopicSet
) -> None:
    """A record without a key: the others of its batch are there, once and in order, and it is named."""
    Operator(kafka.bootstrap).configure(topics.results, "cleanup.policy", "compact")
    await asyncio.to_thread(until_refused, kafka, topics.results, None, PROBE)
    place = publisher.sink._queues[Output.RESULTS][:1]
    publisher.sink._queues[Output.RESULTS] = place  # all of them in one batch
    for number, key in enumerate([b"a", b"b", None, b"c"]):
        record = result(str(number), key)
        publisher.sink.publish([record], lambda: publisher.acked.append(""))
    await until(lambda: publisher.failures)
    written = [value for value in publisher.written() if value != PROBE.decode()]
    assert [orjson.loads(value)["answer"] for value in written] == ["0", "1"]
    assert len(publisher.acked) == 2
    text = str(publisher.failures[0])
    assert topics.results in text
    assert "queries/0/1/result" in text
    assert "INVALID_RECORD (code 87)" in text
    assert publisher.rebuilds == []


async def test_partitions_that_are_added(publisher: Publisher, kafka: RealBroker, topics: TopicSet) -> None:
    """They are used once the client has looked, and a key goes where other clients put it."""
    Operator(kafka.bootstrap).add_partitions(topics.results, topics.partitions + 4)
    queues, client = publisher.sink._queues[Output.RESULTS], publisher.sink.producer.client.client

    async def learned() -> bool:
        await client.force_metadata_update()
        publisher.sink.look(0.0)
        return len(queues) == topics.partitions + 4

    while not await learned():
        pass
    for number in range(40):
        publisher.publish(f"v{number}", key=b"%d" % number)
    await until(lambda: len(publisher.acked) == 40)
    assert sorted(publisher.written()) == sorted(f"v{number}" for number in range(40))
    assert all(queue.sequence or sender_has(publisher, queue) for queue in queues[topics.partitions :])
    assert publisher.rebuilds == []


def sender_has(publisher: Publisher, queue: Any) -> bool:
    """Something was numbered for a partition."""
    sender = publisher.sink._sender
    return sender is not None and sender._numbers[queue.partition] > 0


@pytest.mark.parametrize(("name", "number"), [("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
async def test_compressed_batches(kafka: RealBroker, topics: TopicSet, name: str, number: int) -> None:
    """The broker takes them, and what others have written reads them: librdkafka, and Java's consumer."""
    publisher = publisher_of(kafka, topics, compression=name)
    await publisher.sink.start()
    client: Any = publisher.sink.producer.client.client
    own = client.send
    sent: list[int] = []

    async def look(broker: int, request: Any) -> Any:
        for _, batches in getattr(request, "_topics", ()):
            sent.extend(DefaultRecordBatch(batch).compression_type for _, batch in batches)
        return await own(broker, request)

    client.send = look
    values = [f"value {count} " * 50 for count in range(30)]
    publisher.publish(*values[:20])
    await until(lambda: len(publisher.acked) == 20)
    publisher.publish(*values[20:])
    await until(lambda: len(publisher.acked) == 30)
    await publisher.sink.stop()
    assert set(sent) == {number}
    assert publisher.written() == values
    arguments = (
        "--topic",
        topics.results,
        "--from-beginning",
        "--max-messages",
        "30",
        "--timeout-ms",
        "20000",
    )
    shown = await asyncio.to_thread(kafka.exec_tool, "kafka-console-consumer", *arguments)
    assert shown.splitlines()[:30] == values
    assert (publisher.rebuilds, publisher.failures) == ([], [])


async def test_quotas_of_the_broker(kafka: RealBroker, topics: TopicSet) -> None:
    """How long they make the producer wait is counted, and nothing is lost or sent twice."""
    name = f"client-of-{topics.prefix}"
    entity = ("--entity-type", "clients", "--entity-name", name)
    quota = ("--alter", "--add-config", "producer_byte_rate=20000")
    await asyncio.to_thread(kafka.exec_tool, "kafka-configs", *quota, *entity)
    publisher = publisher_of(kafka, topics, client_id=name)
    await publisher.sink.start()
    count = 0
    while not publisher.throttled_s:  # a quota holds when the broker has heard of it
        publisher.publish("x" * 10_000)
        count += 1
        await until(lambda: len(publisher.acked) == count)  # noqa: B023 - awaited here
    assert len(publisher.written()) == count
    assert publisher.rebuilds == []
    await publisher.sink.stop()
