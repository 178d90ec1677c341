"""The simulation's clients behave as aiokafka's: the same script on both has the same results."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, ConsumerRebalanceListener, TopicPartition
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor
from aiokafka.errors import OutOfOrderSequenceNumber

from fivestage.core.records import Output, OutputRecord, PlainRecord
from fivestage.kafka.producer.client import ProducerClient
from fivestage.kafka.producer.produce_request import EventRequest
from fivestage.kafka.producer.record_batch import RecordBatch
from simulation.broker import QUERIES, Broker
from simulation.cluster import Cluster
from simulation.consumer import SimConsumer
from simulation.loop import Process, SimLoop
from simulation.network import NO_FAULTS, Network
from simulation.producer import SimProducer
from simulation.trace import Trace
from support.wire import bad_header_name, write_batch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from .broker import RealBroker
    from .conftest import MakeTopics

OPTIONS: dict[str, Any] = {
    "enable_auto_commit": False,
    "auto_offset_reset": "none",
    "partition_assignment_strategy": (StickyPartitionAssignor,),
    "session_timeout_ms": 6000,
    "heartbeat_interval_ms": 300,
    "rebalance_timeout_ms": 9000,
    "request_timeout_ms": 15000,
    "fetch_max_wait_ms": 50,
}
PARTITIONS = 2
WAIT_MS = 100
PATIENCE = 300
"""The number of reads before a missing record counts as absent."""


class Real:
    """aiokafka's clients, and a broker."""

    def __init__(self, kafka: RealBroker, topics: Any) -> None:
        self.topic, self.results, self._bootstrap, self._group = (
            topics.queries,
            topics.results,
            kafka.bootstrap,
            topics.prefix,
        )

    def consumer(self, _: str) -> Any:
        return AIOKafkaConsumer(bootstrap_servers=self._bootstrap, group_id=self._group, **OPTIONS)

    def producer(self) -> Any:
        return ProducerClient(bootstrap_servers=self._bootstrap)

    async def write(self, partition: int, number: int, *, readable: bool = True) -> None:
        """Write records, or an unreadable one."""
        producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap)
        await producer.start()
        if readable:
            for _ in range(number):
                await producer.send_and_wait(self.topic, b"x", partition=partition)
        else:
            await write_batch(producer, self.topic, partition, [b"x"], bad_header_name)
        await producer.stop()

    async def written(self) -> int:
        """Return the number of results."""
        consumer, partition = self.consumer(""), TopicPartition(self.results, 0)
        await consumer.start()
        ends = await consumer.end_offsets([partition])
        await consumer.stop()
        return int(ends[partition])

    def run(self, script: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run(script)


class Simulated:
    """The simulated clients and broker."""

    def __init__(self) -> None:
        self._loop = SimLoop()
        trace = Trace(self._loop.time)
        network = Network(self._loop, Random(1), NO_FAULTS, trace)  # noqa: S311 - repeatable on purpose
        random = Random(2)  # noqa: S311 - likewise
        self.broker = Broker(self._loop, random, trace, partitions=PARTITIONS, output_partitions=1)
        self._cluster = Cluster(self.broker, network, trace, Process("p"))
        self.topic, self.results = QUERIES, "results"

    def consumer(self, name: str) -> Any:
        return SimConsumer(self._cluster._replace(process=Process(name)), **OPTIONS)

    def producer(self) -> Any:
        return SimProducer(self._cluster, request_timeout_ms=OPTIONS["request_timeout_ms"])

    async def write(self, partition: int, number: int, *, readable: bool = True) -> None:
        for _ in range(number):
            offset = len(self.broker.queries[partition])
            if not readable:
                self.broker.corrupt.add((partition, offset))
            self.broker.write(PlainRecord(QUERIES, partition, offset, -1, None, b"x"))

    async def written(self) -> int:
        return sum(map(len, self.broker.outputs.values()))

    def run(self, script: Coroutine[Any, Any, Any]) -> Any:
        try:
            return self._loop.run_until_complete(script)
        finally:
            self._loop.dispose()


Side = Real | Simulated


class Listener(ConsumerRebalanceListener):
    """Records each rebalance callback, and acts while partitions are being revoked."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.assigned = asyncio.Event()
        self.while_revoking: Callable[[set[TopicPartition]], Awaitable[None]] | None = None

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        self.seen.append(f"revoked {len(revoked)}")
        if self.while_revoking is not None:
            await self.while_revoking(revoked)

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        del assigned
        self.seen.append("assigned")
        self.assigned.set()


async def outcome(step: Callable[[], Any]) -> Any:
    """Return a call's result, or the class of its exception."""
    try:
        found = step()
        return await found if asyncio.iscoroutine(found) else found
    except Exception as error:  # noqa: BLE001 - any class is compared
        return type(error).__name__


async def join(side: Side, name: str = "a") -> tuple[Any, Listener]:
    """Start a consumer and wait for its partitions."""
    consumer, listener = side.consumer(name), Listener()
    await consumer.start()
    consumer.subscribe([side.topic], pattern=None, listener=listener)
    async with asyncio.timeout(60):
        await listener.assigned.wait()
    return consumer, listener


async def read(
    consumer: Any, number: int, *partitions: TopicPartition, max_records: int = 100, most: int = 100
) -> dict[int, list[int]]:
    """Read offsets by partition: *number* and further ones, *most* at most; no fetch returns too many."""
    found: dict[int, list[int]] = {}
    empty = 0
    for _ in range(PATIENCE):
        got = await consumer.getmany(*partitions, timeout_ms=WAIT_MS, max_records=max_records)
        assert sum(map(len, got.values())) <= max_records
        for place, records in got.items():
            found.setdefault(place.partition, []).extend(record.offset for record in records)
        empty = 0 if got else empty + 1
        count = sum(map(len, found.values()))
        if count >= most or (empty >= 3 and count >= number):
            break
    return dict(sorted(found.items()))


def compare(script: Callable[[Side], Coroutine[Any, Any, Any]], kafka: RealBroker, topics: Any) -> Any:
    """Run a script on both; return the results."""
    simulated = Simulated()
    seen = simulated.run(script(simulated))
    real = Real(kafka, topics)
    expected = real.run(script(real))
    assert seen == expected
    return expected


async def reading(side: Side) -> list[Any]:
    """Positions, limits, pauses."""
    zero, one, none = (TopicPartition(side.topic, number) for number in (0, 1, 7))
    await side.write(0, 10)
    await side.write(1, 3)
    early = side.consumer("early")
    await early.start()
    seen = [await outcome(lambda: early.commit({zero: 1})), sorted(early.assignment())]
    await early.stop()
    consumer, _ = await join(side)
    seen += [
        sorted(place.partition for place in consumer.assignment()),
        await outcome(partial(read, consumer, 1)),
        await outcome(partial(consumer.committed, zero)),
    ]
    for place in (zero, one):
        await consumer.seek_to_beginning(place)
    seen += [
        await outcome(partial(consumer.position, zero)),
        await read(consumer, 13, max_records=4),
        await outcome(partial(consumer.position, zero)),
        consumer.highwater(zero),
    ]
    consumer.seek(zero, 4)
    consumer.pause(zero)
    seen += [
        sorted(place.partition for place in consumer.paused()),
        await read(consumer, 0),
        await outcome(partial(consumer.position, zero)),
    ]
    for _ in range(3):
        consumer.resume(zero)
        seen.append(await read(consumer, 1, zero, max_records=1, most=1))
        consumer.pause(zero)  # more has been fetched, at least once
        seen.append(await read(consumer, 0))
    consumer.resume(zero)
    consumer.seek(one, 1)
    seen += [await read(consumer, 3, zero), await read(consumer, 2, one), await read(consumer, 0)]
    seen += [sorted((await consumer.end_offsets([zero, one])).values())]
    seen += [sorted((await consumer.beginning_offsets([zero, one])).values())]
    for step in (
        partial(consumer.commit, {zero: 7}),
        partial(consumer.committed, zero),
        partial(consumer.commit, {none: 1}),
        partial(consumer.seek, none, 1),
        partial(consumer.pause, none),
        partial(consumer.position, none),
    ):
        seen.append(await outcome(step))
    await consumer.stop()
    seen.append(await outcome(partial(consumer.getmany, timeout_ms=1, max_records=1)))
    again, _ = await join(side, "again")
    seen += [await outcome(partial(again.position, zero)), again.paused()]
    await again.stop()
    return seen


def test_reading(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Records, positions, pauses, commits, and exceptions for unassigned partitions."""
    compare(reading, kafka, make_topics(PARTITIONS))


async def rebalancing(side: Side) -> list[Any]:
    """Two members; commits while partitions are revoked, and after."""
    places = [TopicPartition(side.topic, number) for number in range(PARTITIONS)]
    for number in range(PARTITIONS):
        await side.write(number, 5)
    first, listener = await join(side)
    for place in places:
        await first.seek_to_beginning(place)
    await read(first, 10)
    seen: list[Any] = []

    async def commit(revoked: set[TopicPartition]) -> None:
        seen.append(await outcome(partial(first.commit, dict.fromkeys(revoked, 3))))
        seen.append(len(first.assignment()))

    listener.while_revoking = commit
    first.pause(*places)
    listener.assigned.clear()
    second, other = await join(side, "b")
    async with asyncio.timeout(60):
        await listener.assigned.wait()
    listener.while_revoking = None
    mine, others = first.assignment(), second.assignment()
    seen += [mine | others == set(places), mine & others, first.paused(), [*listener.seen], [*other.seen]]
    lost = next(iter(others), None)
    if lost is not None:
        seen_of_lost = await outcome(partial(first.commit, {lost: 4}))
        assert seen_of_lost == "IllegalStateError"
    starts = {
        await consumer.position(place) for consumer in (first, second) for place in consumer.assignment()
    }
    seen.append(starts)
    owner = first if mine else second
    kept = next(iter(owner.assignment()))
    owner._coordinator.generation -= 1
    seen.append(await outcome(partial(owner.commit, {kept: 5})))
    seen.append(await outcome(partial(owner.commit, {kept: 5})))
    await asyncio.gather(first.stop(), second.stop())
    return seen


def test_rebalancing(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Callbacks come in the same order; commits are accepted and rejected at the same times."""
    seen = compare(rebalancing, kafka, make_topics(PARTITIONS))
    assert seen[-2:] == ["CommitFailedError"] * 2


async def reading_poison(side: Side) -> list[Any]:
    """An unreadable record, before others and beside records of another partition."""
    zero, one = (TopicPartition(side.topic, number) for number in range(2))
    await side.write(0, 2)
    await side.write(0, 1, readable=False)
    await side.write(0, 2)
    consumer, _ = await join(side)
    for place in (zero, one):
        await consumer.seek_to_beginning(place)
    seen: list[Any] = []
    read_before: list[int] = []
    for _ in range(2):
        for _ in range(PATIENCE):
            try:
                got = await consumer.getmany(timeout_ms=WAIT_MS, max_records=1)
            except Exception:  # noqa: BLE001 - the double raises another class here
                seen.append(await consumer.position(zero))
                break
            read_before += [record.offset for records in got.values() for record in records]
    seen.append(read_before)
    consumer.seek(zero, 3)
    seen.append(await read(consumer, 2))
    await consumer.stop()
    return seen


def test_reading_poison(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """It is raised again and again at the same position, until that is moved."""
    assert compare(reading_poison, kafka, make_topics(PARTITIONS)) == [2, 2, [0, 1], {0: [3, 4]}]


async def producing(side: Side) -> list[Any]:
    """Batches in order, repeated, and out of order."""
    assert await side.written() == 0  # answered once the partition, which is new, has its leader
    producer, numbers = side.producer(), count()
    await producer.start()
    client, place = producer.client, TopicPartition(side.results, 0)
    await producer.partitions([side.results], 15.0)
    identity: tuple[int, int] = producer.identity
    seen: list[Any] = []
    batches: dict[tuple[int, int], bytes] = {}
    for sequence, size in [(0, 2), (0, 2), (5, 1), (2, 1), (0, 2), (1, 2), (2, 1), (3, 3), (5, 1), (6, 1)]:
        if (sequence, size) not in batches:
            batch = RecordBatch(16384)
            for _ in range(size):
                headers = [("ce_id", b"queries/0/%d/result" % next(numbers))]
                batch.add(OutputRecord.of(Output.RESULTS, b"k", b"v", headers))
            batches[sequence, size] = batch.encode(*identity, sequence)
        topics = [(side.results, [(0, batches[sequence, size])])]
        answer = await client.send(
            client.cluster.leader_for_partition(place)
            if isinstance(side, Real)
            else client.leader_for_partition(place),
            EventRequest(-1, 10_000, topics),
        )
        seen.append((sequence, size, answer.topics[0][1][0][1]))
    await producer.stop()
    return [*seen, await side.written()]


@pytest.mark.interpreted
def test_producing(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """A repeated batch exists once; one after a gap, or overlapping, is rejected."""
    seen = compare(producing, kafka, make_topics(1))
    refused = OutOfOrderSequenceNumber.errno
    assert [code for *_, code in seen[:-1]] == [0, 0, refused, 0, 0, refused, 0, 0, refused, 0]
    assert seen[-1] == 7
