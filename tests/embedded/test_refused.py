"""Batches rejected for their content: the offending record is published without its data."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import orjson
import pytest

from fivestage.core.records import Output, OutputRecord
from fivestage.errors import PublishError
from fivestage_schemas import headers as h
from support.mock import PRODUCE
from support.publisher import Publisher, until

if TYPE_CHECKING:
    from fivestage.kafka.producer.partition_queue import PartitionQueue
    from support.mock import Mock

pytestmark = pytest.mark.broker

SIZE, RECORD = 10, 87
"""Error codes: larger than the topic allows; invalid."""


def queue_of(publisher: Publisher) -> PartitionQueue:
    """Return the queue that has published something, or will."""
    queues = publisher.sink._queues[Output.RESULTS]
    return next(queue for queue in queues if queue.busy or queue.sequence or queue.pending)


def publish_result(publisher: Publisher, name: str) -> None:
    """Publish a result with data."""
    value = orjson.dumps({"status": "success", "answer": name, "error_type": None, "stages": []})
    headers = [(h.CE_ID, f"queries/0/7/{name}".encode()), (h.STATUS, b"success")]
    record = OutputRecord.of(Output.RESULTS, b"key", value, headers)
    publisher.sink.publish([record], functools.partial(publisher.acked.append, name))


@pytest.mark.parametrize("code", [SIZE, 18, 32, RECORD])
async def test_the_others_of_a_batch(publisher: Publisher, mock: Mock, code: int) -> None:
    """The other records are published alone, once, in order, by the same producer, without gaps."""
    mock.push(PRODUCE, [code])
    publisher.publish("a", "b", "c")
    await until(lambda: len(publisher.acked) == 3)
    assert publisher.acked == publisher.written() == ["a", "b", "c"]
    assert (publisher.batches, mock.requests(PRODUCE)) == (3, 4)
    assert (publisher.rebuilds, publisher.failures) == ([], [])
    sender = publisher.sink._sender
    assert sender is not None
    assert sender._numbers[queue_of(publisher).partition] == 3


@pytest.mark.parametrize(
    ("code", "word"),
    [
        (SIZE, "result_too_large"),
        (18, "result_too_large"),
        (32, "publish_refused"),
        (RECORD, "publish_refused"),
    ],
)
async def test_the_rejected_record(publisher: Publisher, mock: Mock, code: int, word: str) -> None:
    """The rejected record becomes an error that says why; others are published unchanged."""
    mock.push(PRODUCE, [code, 0, code])
    for name in ("a", "b", "c"):
        publish_result(publisher, name)
    await until(lambda: len(publisher.acked) == 3)
    found = [orjson.loads(value) for value in publisher.written()]
    assert [one["answer"] for one in found] == ["a", None, "c"]
    assert [one["error_type"] for one in found] == [None, word, None]
    assert publisher.refused == [word]
    assert publisher.acked == ["a", "b", "c"]
    assert (publisher.rebuilds, publisher.failures) == ([], [])


async def test_a_record_rejected_without_data_too(publisher: Publisher, mock: Mock) -> None:
    """An event rejected without its data too is never acknowledged; the error names topic, event and code."""
    mock.push(PRODUCE, [RECORD] * 2)
    publish_result(publisher, "result")
    await until(lambda: publisher.failures)
    publish_result(publisher, "later")
    [failure] = publisher.failures
    assert isinstance(failure, PublishError)
    for word in ("fivestage.results", "queries/0/7/result", "INVALID_RECORD (code 87)"):
        assert word in str(failure)
    assert (publisher.acked, publisher.rebuilds, mock.requests(PRODUCE)) == ([], [], 2)


async def test_a_batch_that_was_sent_before(publisher: Publisher, mock: Mock) -> None:
    """A batch sent before may exist despite the rejection: a new producer sends it."""
    mock.push(PRODUCE, [7, RECORD])
    publisher.publish("a", "b")
    await until(lambda: len(publisher.acked) == 2)
    assert publisher.written() == ["a", "b"]
    assert publisher.rebuilds == ["producer ContentRefusedError"]
    assert publisher.failures == []


async def test_batches_become_smaller(publisher: Publisher, mock: Mock) -> None:
    """Where each record is accepted alone, later batches are smaller."""
    mock.push(PRODUCE, [SIZE])
    publisher.publish(*"abcd")
    await until(lambda: len(publisher.acked) == 4)
    publisher.publish(*"efgh")
    await until(lambda: len(publisher.acked) == 8)
    assert publisher.batches > 4 + 1
    assert publisher.written() == list("abcdefgh")


async def test_batches_stay_as_large_where_one_record_was_the_cause(publisher: Publisher, mock: Mock) -> None:
    """Where one record's size was the cause, batches stay as large."""
    mock.push(PRODUCE, [SIZE, SIZE])
    for name in "abc":
        publish_result(publisher, name)
    await until(lambda: len(publisher.acked) == 3)
    before = publisher.batches
    for name in "def":
        publish_result(publisher, name)
    await until(lambda: len(publisher.acked) == 6)
    assert publisher.batches == before + 1
