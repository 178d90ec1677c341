"""The checker on a real broker: a commit that was too far for a few milliseconds is found."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from confluent_kafka import TopicPartition

from support.checker import check, read_all, wait_for_results, wait_until_committed
from support.feeder import event, write
from support.process import ServiceProcess
from support.reading import make_consumer

from .test_service import settings_for

if TYPE_CHECKING:
    from .broker import RealBroker, TopicSet
    from .conftest import MakeTopics

POISON = [None, b"", b"\xff\xfe", b"7", b"[" * 100_000, b'"\xed\xa0\x80"', b'{"query_id":' + b"9" * 10_000]
SHORT_S = 0.005


def commit(kafka: RealBroker, topics: TopicSet, *positions: int) -> None:
    """Commit positions of the first partition, one after the other."""
    consumer = make_consumer(kafka.bootstrap, topics.prefix)
    try:
        for position in positions:
            wanted = TopicPartition(topics.queries, 0, position)
            consumer.commit(offsets=[wanted], asynchronous=False)
            threading.Event().wait(SHORT_S)
    finally:
        consumer.close()


def answered(kafka: RealBroker, topics: TopicSet, count: int) -> None:
    """Run the service until everything is committed."""
    with ServiceProcess("support.apps:load", kafka.bootstrap, settings_for(topics)) as service:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, count)
        assert service.end() == 0


def test_a_commit_that_is_too_far_for_five_milliseconds(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """A commit that was corrected before any look at it is found, and so is the step back."""
    topics = make_topics(1)
    write(kafka.bootstrap, topics.queries, [(None, event("a", "fast")), (None, event("b", "fast"))])
    commit(kafka, topics, 1, 0)
    answered(kafka, topics, 2)
    report = check(kafka.bootstrap, topics, ["a", "b"])
    assert [text.split(",")[0] for text in report.commit_ahead] == ["0/0"]
    assert report.commit_regressions == ["0: 1 -> 0"]
    assert (report.lost, report.malformed, report.incomplete) == ([], [], [])


def test_any_bytes_in_the_topics(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Unreadable queries are read, and invalid events are reported."""
    topics = make_topics(1)
    write(kafka.bootstrap, topics.queries, [("k", value) for value in [*POISON, event("a", "fast")]])
    answered(kafka, topics, len(POISON) + 1)
    report = check(kafka.bootstrap, topics, ["a"])
    assert report.silent, report
    assert len(read_all(kafka.bootstrap, topics.dead_letters)) == len(POISON)
    for topic in (topics.results, topics.stage_results, topics.timeouts, topics.dead_letters):
        write(kafka.bootstrap, topic, [("k", value) for value in POISON])
    wait_for_results(kafka.bootstrap, topics.results, len(POISON) + 1)
    report = check(kafka.bootstrap, topics, ["a"])
    assert report.violations == {**dict.fromkeys(report.violations, 0), "malformed": 4 * len(POISON)}
