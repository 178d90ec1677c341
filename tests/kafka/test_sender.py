"""The sender on a real broker, which detects duplicates unlike the mock."""

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
from support.reading import ANSWER_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .broker import RealBroker, TopicSet


def publisher_of(kafka: RealBroker, topics: TopicSet, **more: object) -> Publisher:
    """Build a sink on these topics, with further Kafka settings."""
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    given = {"topics": {name: getattr(topics, name) for name in names}}
    return Publisher(Settings.load(None, {"kafka": {"bootstrap_servers": kafka.bootstrap, **more}, **given}))


@pytest.fixture
async def publisher(kafka: RealBroker, topics: TopicSet) -> AsyncIterator[Publisher]:
    """Start a sink."""
    publisher = publisher_of(kafka, topics)
    await publisher.sink.start()
    yield publisher
    await publisher.sink.stop()


async def test_a_retry_is_not_duplicated(publisher: Publisher) -> None:
    """Responses are lost and batches repeated, but no record is duplicated."""
    client: Any = publisher.sink.producer.client.client
    own, asked = client.send, []

    async def lose_every_other_answer(broker: int, request: Any) -> Any:
        answer = await own(broker, request)
        if not isinstance(request, EventRequest):  # it requests the leaders now and then
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
    assert len(asked) >= 2 * len(values)  # more where the broker is not ready for the partition at once
    assert publisher.written() == values
    assert publisher.rebuilds == []


async def test_sequence_numbers_wrap_around(publisher: Publisher, topics: TopicSet) -> None:
    """A batch may cross the largest sequence number; the broker accepts what follows."""
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
    """Build a result with data."""
    value = orjson.dumps({"status": "success", "answer": answer, "error_type": None, "stages": []})
    return OutputRecord.of(Output.RESULTS, key, value, [("ce_id", b"queries/0/1/result")])


PROBE = b"the probe "


def until_refused(kafka: RealBroker, topic: str, key: bytes | None, value: bytes) -> None:
    """Write a record until the broker rejects it: changed properties take effect late."""
    errors: list[object] = [None]
    producer = Producer({"bootstrap.servers": kafka.bootstrap})
    while errors[-1] is None:
        producer.produce(topic, value, key, on_delivery=lambda error, _: errors.append(error))
        assert producer.flush(ANSWER_S) == 0


async def test_a_topic_that_accepts_less(publisher: Publisher, kafka: RealBroker, topics: TopicSet) -> None:
    """A topic that accepts less than at the start costs the larger answers: the rest has no gap."""
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


async def test_a_record_rejected_by_a_compacted_topic(
    publisher: Publisher, kafka: RealBroker, topics: TopicSet
) -> None:
    """A record without a key is rejected and named; the others of its batch exist once and in order."""
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
    """Added partitions are used once the client knows them, with the same keys as other clients."""
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
    """Return whether a record of a partition has a sequence number."""
    sender = publisher.sink._sender
    return sender is not None and sender._numbers[queue.partition] > 0


@pytest.mark.parametrize(("name", "number"), [("gzip", 1), ("snappy", 2), ("lz4", 3), ("zstd", 4)])
async def test_compressed_batches(kafka: RealBroker, topics: TopicSet, name: str, number: int) -> None:
    """The broker accepts them; librdkafka and Java's consumer read them."""
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
    """The throttle time is counted, and nothing is lost or sent twice."""
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
