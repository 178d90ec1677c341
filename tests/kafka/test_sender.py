"""The sender on a real broker, which knows what it has already, as the mock does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import KafkaConnectionError

from fivestage.bus.sender import NUMBERS
from fivestage.settings import Settings
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from .broker import RealBroker, TopicSet


@pytest.fixture
async def publisher(kafka: RealBroker, topics: TopicSet) -> AsyncIterator[Publisher]:
    """A sink that has started."""
    names = ("queries", "stage_results", "results", "timeouts", "dead_letters")
    given = {"topics": {name: getattr(topics, name) for name in names}}
    publisher = Publisher(Settings.load(None, {"kafka": {"bootstrap_servers": kafka.bootstrap}, **given}))
    await publisher.sink.start()
    yield publisher
    await publisher.sink.stop()


async def test_what_is_sent_again_is_there_once(publisher: Publisher) -> None:
    """Answers are lost, batches come twice, and records do not."""
    client: Any = publisher.sink.producer.client.client
    own, asked = client.send, []

    async def lose_every_other_answer(broker: int, request: Any) -> Any:
        answer = await own(broker, request)
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
        sender._numbers[TopicPartition(topics.results, number)] = NUMBERS - 2
    publisher.publish("a", "b", "c", "d", "e")
    await until(lambda: len(publisher.acked) == 5)
    publisher.publish("f")
    await until(lambda: len(publisher.acked) == 6)
    assert publisher.written() == ["a", "b", "c", "d", "e", "f"]
    assert publisher.rebuilds == []
