"""The checker: what a run promised, held against what is in the topics.

Reads with librdkafka, not with our own client. Looks for

* *lost*: a query without a terminal event;
* *phantom*: a terminal event of no query;
* *contradiction*: two distinct terminal event ids for one query (the same id twice is a redelivery);
* *commit-ahead*: a position committed before everything below it had its terminal event;
* *commit-regression*: a position that went back.
"""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from fivestage_schemas import PipelineResult

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kafka.broker import TopicSet

Positions = dict[int, int]


def read_all(bootstrap: str, topic: str) -> list[Message]:
    """Everything that is in a topic now."""
    consumer = _consumer(bootstrap)
    try:
        partitions = _partitions(consumer, topic)
        ends = {number: _watermarks(consumer, topic, number) for number in partitions}
        left = {number for number, (low, high) in ends.items() if high > low}
        consumer.assign([TopicPartition(topic, number, ends[number][0]) for number in left])
        messages, limit = [], time.monotonic() + 60
        while left:
            assert time.monotonic() < limit, f"could not read {topic} to its end"
            for message in consumer.consume(10_000, timeout=0.5):
                assert message.error() is None, message.error()
                if (message.offset() or 0) < ends[message.partition() or 0][1]:
                    messages.append(message)
            for position in consumer.position([TopicPartition(topic, number) for number in left]):
                if position.offset >= ends[position.partition][1]:
                    left.discard(position.partition)
        return messages
    finally:
        consumer.close()


def headers_of(message: Message) -> dict[str, str]:
    """A record's headers as text."""
    found: Any = message.headers() or []  # a list of pairs, although its stub allows more
    return {name: value.decode() for name, value in found if value is not None}


def wait_for_results(bootstrap: str, topic: str, count: int, limit_s: float = 60.0) -> None:
    """Wait until a topic has at least so many records."""
    consumer = _consumer(bootstrap)
    try:
        end = time.monotonic() + limit_s
        pause = threading.Event()
        while (found := sum(_ends(consumer, topic).values())) < count:
            assert time.monotonic() < end, f"{found} of {count} records in {topic} after {limit_s} s"
            pause.wait(0.1)
    finally:
        consumer.close()


def committed(bootstrap: str, group_id: str, topic: str) -> Positions:
    """The group's committed positions; partitions without one are absent."""
    consumer = _consumer(bootstrap, group_id)
    try:
        return _committed(consumer, topic)
    finally:
        consumer.close()


def wait_until_committed(
    bootstrap: str, group_id: str, topic: str, count: int, limit_s: float = 120.0
) -> None:
    """Wait until the committed positions add up to *count*."""
    consumer = _consumer(bootstrap, group_id)
    end, pause, total = time.monotonic() + limit_s, threading.Event(), 0
    try:
        while total < count:
            assert time.monotonic() < end, f"{total} of {count} committed after {limit_s} s"
            pause.wait(0.2)
            with contextlib.suppress(KafkaException):  # the broker may be away for a while
                total = sum(_committed(consumer, topic).values())
    finally:
        consumer.close()


@dataclass
class Snapshot:
    """Committed positions, and the ends of the results topic read just after them."""

    committed: Positions
    results_end: Positions


class CommitWatch:
    """Takes a snapshot again and again while the ``with`` block runs."""

    def __init__(self, bootstrap: str, group_id: str, topics: TopicSet) -> None:
        self._bootstrap = bootstrap
        self._group_id = group_id
        self._topics = topics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.snapshots: list[Snapshot] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(30)

    def _run(self) -> None:
        consumer = _consumer(self._bootstrap, self._group_id)
        while not self._stop.wait(0.2):
            try:
                positions = _committed(consumer, self._topics.queries)
                self.snapshots.append(Snapshot(positions, _ends(consumer, self._topics.results)))
            except KafkaException:  # the broker is away: part of some runs
                continue
        consumer.close()


@dataclass
class Report:
    """What the checker found."""

    lost: list[str] = field(default_factory=list)
    phantom: list[str] = field(default_factory=list)
    contradictions: dict[str, set[str]] = field(default_factory=dict)
    commit_ahead: list[str] = field(default_factory=list)
    commit_regressions: list[str] = field(default_factory=list)
    duplicates: int = 0
    statuses: Counter[str] = field(default_factory=Counter)

    @property
    def silent(self) -> bool:
        """Nothing to complain of."""
        return not (
            self.lost or self.phantom or self.contradictions or self.commit_ahead or self.commit_regressions
        )

    def __str__(self) -> str:
        return (
            f"lost {len(self.lost)} {self.lost[:3]}, phantom {len(self.phantom)} {self.phantom[:3]}, "
            f"contradictions {len(self.contradictions)}, commit-ahead {self.commit_ahead[:3]}, "
            f"commit-regressions {self.commit_regressions[:3]}, duplicates {self.duplicates}, "
            f"{dict(self.statuses)}"
        )


def check(bootstrap: str, topics: TopicSet, ids: Iterable[str], snapshots: Iterable[Snapshot] = ()) -> Report:
    """Read the results and compare."""
    return judge(set(ids), [_Terminal.of(m) for m in read_all(bootstrap, topics.results)], list(snapshots))


@dataclass(frozen=True)
class _Terminal:
    """One record of the results topic."""

    query_id: str
    ce_id: str
    status: str
    source: tuple[int, int]
    at: tuple[int, int]

    @classmethod
    def of(cls, message: Message) -> _Terminal:
        value = message.value()
        assert value is not None
        result = PipelineResult.model_validate_json(value)
        assert result.source is not None
        source = (result.source.partition, result.source.offset)
        at = (message.partition() or 0, message.offset() or 0)
        return cls(result.query_id, headers_of(message)["ce_id"], result.status, source, at)


def judge(ids: set[str], terminals: list[_Terminal], snapshots: list[Snapshot]) -> Report:
    """Compare queries, terminal events and commits. Pure, so that it can be tested itself."""
    report = Report()
    by_query: dict[str, set[str]] = defaultdict(set)
    for terminal in terminals:
        by_query[terminal.query_id].add(terminal.ce_id)
        report.statuses[terminal.status] += 1
    report.lost = sorted(ids - by_query.keys())
    report.phantom = sorted(by_query.keys() - ids)
    report.contradictions = {name: found for name, found in by_query.items() if len(found) > 1}
    report.duplicates = len(terminals) - sum(len(found) for found in by_query.values())
    _judge_commits(report, terminals, snapshots)
    return report


def _judge_commits(report: Report, terminals: list[_Terminal], snapshots: list[Snapshot]) -> None:
    """An offset is answered from the moment its first terminal event is in the results topic."""
    first_seen: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for terminal in terminals:
        first_seen[terminal.source].append(terminal.at)
    highest: Positions = {}
    for snapshot in snapshots:
        for partition, position in snapshot.committed.items():
            if position < highest.get(partition, 0):
                report.commit_regressions.append(f"{partition}: {highest[partition]} -> {position}")
            for offset in range(highest.get(partition, 0), position):
                if not _answered(first_seen[partition, offset], snapshot.results_end):
                    report.commit_ahead.append(f"{partition}/{offset}")
            highest[partition] = max(position, highest.get(partition, 0))


def _answered(seen: list[tuple[int, int]], results_end: Positions) -> bool:
    return any(offset < results_end.get(partition, 0) for partition, offset in seen)


def _consumer(bootstrap: str, group_id: str = "checker") -> Consumer:
    options: dict[str, Any] = {
        "bootstrap.servers": bootstrap,
        "group.id": group_id,
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
        "log_level": 0,
    }
    return Consumer(options)


def _partitions(consumer: Consumer, topic: str) -> list[int]:
    return sorted(consumer.list_topics(topic, timeout=20).topics[topic].partitions)


def _watermarks(consumer: Consumer, topic: str, partition: int) -> tuple[int, int]:
    found = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=20)
    assert found is not None, f"no watermarks of {topic}/{partition}"
    return found


def _ends(consumer: Consumer, topic: str) -> Positions:
    return {number: _watermarks(consumer, topic, number)[1] for number in _partitions(consumer, topic)}


def _committed(consumer: Consumer, topic: str) -> Positions:
    wanted = [TopicPartition(topic, number) for number in _partitions(consumer, topic)]
    found = consumer.committed(wanted, timeout=20)
    return {position.partition: position.offset for position in found if position.offset >= 0}


def json_of(message: Message) -> Any:
    """A record's value, parsed."""
    value = message.value()
    return None if value is None else json.loads(value)
