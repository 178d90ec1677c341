"""Instances that join, leave, crash and return: nothing is lost, no stale commit is made."""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.coordinator.assignors.sticky.sticky_assignor import StickyPartitionAssignor

from fivestage.core.ledger import Ledger, PartitionKey
from fivestage.core.observer import Observer
from fivestage.kafka.consumer.committer import Committer
from fivestage.settings import Settings
from kafka.test_service import settings_for
from support.checker import (
    CUT_OFF,
    UNTIMED,
    check,
    committed,
    headers_of,
    json_of,
    read_all,
    wait_for_results,
    wait_until_committed,
)
from support.feeder import Feeder, event, write
from support.members import make_member
from support.operations import Operator, port_of, wait_for_partitions
from support.probe import metrics
from support.process import ServiceProcess

if TYPE_CHECKING:
    from kafka.broker import RealBroker, TopicSet
    from kafka.conftest import MakeTopics
    from support.operations import RecordProperty

    Place = tuple[int, int]
    """Partition and offset."""

pytestmark = pytest.mark.kafka
APP = "support.apps:load"
SHORT_SESSION = {"kafka__session_timeout_ms": 2000, "kafka__heartbeat_interval_ms": 500}
NEVER_MS = 3_600_000


def answered_ahead(kafka: RealBroker, topics: TopicSet) -> int:
    """Return records answered and not committed, which a successor answers again."""
    positions = committed(kafka.bootstrap, topics.prefix, topics.queries)
    sources = [json_of(message)["source"] for message in read_all(kafka.bootstrap, topics.results)]
    answered = {(source["partition"], source["offset"]) for source in sources}
    return sum(offset >= positions.get(partition, 0) for partition, offset in answered)


def answered_too_often(kafka: RealBroker, topics: TopicSet, *services: ServiceProcess) -> dict[Place, int]:
    """Return records answered more often than their partition was assigned.

    How many are answered again after an assignment depends on the machine: the uncommitted ones.
    """
    lines = [line for service in services for line in service.log if line["event"] == "assigned"]
    assigned = Counter(partition for line in lines for partition in line["partitions"])
    sources = [json_of(message)["source"] for message in read_all(kafka.bootstrap, topics.results)]
    answered = Counter((source["partition"], source["offset"]) for source in sources)
    return {place: times for place, times in answered.items() if times > assigned[place[0]]}


async def storm(kafka: RealBroker, topics: TopicSet, steps: int) -> None:
    """At every step, half a second apart or more, a member joins or leaves the group."""
    guest: AIOKafkaConsumer | None = None
    for _ in range(steps):
        pause = asyncio.create_task(asyncio.sleep(0.5))
        if guest is None:
            guest = AIOKafkaConsumer(
                topics.queries,
                bootstrap_servers=kafka.bootstrap,
                group_id=topics.prefix,
                enable_auto_commit=False,
                partition_assignment_strategy=(StickyPartitionAssignor,),
            )
            await guest.start()
        else:
            await guest.stop()
            guest = None
        await pause
    if guest is not None:
        await guest.stop()


@pytest.mark.fault(7)
@pytest.mark.parametrize("steps", [20, pytest.param(120, marks=pytest.mark.long)])
def test_members_come_and_go_all_the_time(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty, steps: int
) -> None:
    """Two services continue while others join and leave, and repeat only what was assigned again."""
    topics = make_topics(8)
    settings = settings_for(topics, kafka__heartbeat_interval_ms=300)
    with (
        Feeder(kafka.bootstrap, topics.queries, count=100 * steps, rate=200) as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings) as first,
        ServiceProcess(APP, kafka.bootstrap, settings) as second,
    ):
        asyncio.run(storm(kafka, topics, steps))
        during = len(read_all(kafka.bootstrap, topics.results))
        rebalances = sum(metrics(port_of(first), "fivestage_rebalances_total").values())
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, len(feeder.ids))
        assert (first.end(), second.end()) == (0, 0)
    report = check(kafka.bootstrap, topics, feeder.ids)
    record_property("rebalances", rebalances)
    record_property("answered during the storm", f"{during} of {len(feeder.ids)}")
    record_property("answered twice", report.duplicates)
    assert report.silent, report
    assert rebalances >= steps / 2
    assert during >= len(feeder.ids) / 4
    assert answered_too_often(kafka, topics, first, second) == {}


class Half:
    """The consuming half of the service, which gives up its partitions on request."""

    def __init__(self, kafka: RealBroker, topics: TopicSet) -> None:
        names = {
            "bootstrap_servers": kafka.bootstrap,
            "group_id": topics.prefix,
            "heartbeat_interval_ms": 200,
        }
        loaded = Settings.load(None, {"kafka": names, "topics": {"queries": topics.queries}})
        hasty = loaded.kafka.model_copy(update={"rebalance_timeout_ms": 1000})
        self.ledger = Ledger(max_span=1000)
        given = loaded.model_copy(update={"kafka": hasty})
        self.member = make_member(given, self.ledger, on_revoked=self._give_up)
        self.committer = Committer(self.member, self.ledger, Observer(), interval_s=60, timeout_s=5)
        self.committed_in_time: bool | None = None
        self.may_give_up = asyncio.Event()

    async def _give_up(self, _: frozenset[PartitionKey]) -> None:
        await self.may_give_up.wait()
        self.committed_in_time = await self.committer.commit()

    async def answer(self, count: int) -> None:
        """Fetch and finish this many records."""
        while count:
            records = await self.member.fetch(count)
            count -= len(records)
            for record in records:
                offsets = self.ledger.offsets(PartitionKey(record.topic, record.partition))  # type: ignore[union-attr]
                assert offsets is not None
                offsets.finish(record.offset)  # type: ignore[union-attr]

    @property
    def expelled(self) -> bool:
        """Return whether the group has expelled this member."""
        coordinator: Any = self.member.consumer._coordinator
        return bool(coordinator.generation < 0)


@pytest.mark.fault(8)
@pytest.mark.parametrize("successor", ["is there", "has left"])
async def test_giving_up_takes_longer_than_the_group_waits(
    kafka: RealBroker, make_topics: MakeTopics, successor: str
) -> None:
    """A member expelled while it gave up its partitions commits nothing, although it tries."""
    topics = make_topics(1)
    write(kafka.bootstrap, topics.queries, [(None, event(f"q{n}")) for n in range(30)])
    slow, quick = Half(kafka, topics), Half(kafka, topics)
    quick.may_give_up.set()
    async with asyncio.timeout(60):
        await slow.member.start()
        await slow.answer(10)
        await quick.member.start()
        await quick.answer(30)
        assert await quick.committer.commit()
        if successor == "has left":
            await quick.member.stop()
        while not slow.expelled:
            await asyncio.sleep(0.05)
        slow.may_give_up.set()
        while slow.committed_in_time is None:
            await asyncio.sleep(0.05)
        await slow.member.stop()
        await quick.member.stop()
    assert slow.committed_in_time is False
    assert committed(kafka.bootstrap, topics.prefix, topics.queries) == {0: 30}


@pytest.mark.fault(11)
@pytest.mark.parametrize("kills", [3, pytest.param(50, marks=pytest.mark.long)])
def test_sigkill_at_any_moment(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty, kills: int
) -> None:
    """After a kill at any moment exactly the answered and uncommitted records are answered again."""
    topics, moments = make_topics(8), random.Random(11)  # noqa: S311
    settings = settings_for(topics, **SHORT_SESSION, admission__max_in_flight=8)
    count = 600 * kills
    ids = [f"q{number}" for number in range(count)]
    write(kafka.bootstrap, topics.queries, [(name, event(name)) for name in ids])
    ahead = answered = 0
    for _ in range(kills):
        with ServiceProcess(APP, kafka.bootstrap, settings) as service:
            wait_for_results(kafka.bootstrap, topics.results, answered + moments.randrange(1, 500))
            service.end(signal.SIGKILL)
        ahead += answered_ahead(kafka, topics)
        answered = len(read_all(kafka.bootstrap, topics.results))
    with ServiceProcess(APP, kafka.bootstrap, settings) as last:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, count)
        assert last.end() == 0
    report = check(kafka.bootstrap, topics, ids)
    record_property("killed", kills)
    record_property("queries", count)
    record_property("answered twice", report.duplicates)
    assert report.silent, report
    assert report.duplicates <= ahead


@pytest.mark.fault(12)
def test_sigkill_between_the_answer_and_its_commit(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Records answered after the last commit are answered again once, under the same id."""
    topics = make_topics(4)
    ids = [f"q{number}" for number in range(300)]
    values: list[tuple[str | None, bytes | None]] = [(name, event(name, "fast")) for name in ids]
    write(kafka.bootstrap, topics.queries, values[:100])
    never = settings_for(topics, kafka__commit_interval_ms=NEVER_MS, **SHORT_SESSION)
    with ServiceProcess(APP, kafka.bootstrap, never) as first:
        wait_for_results(kafka.bootstrap, topics.results, 100)
        assert first.end() == 0  # commits
    write(kafka.bootstrap, topics.queries, values[100:])
    with ServiceProcess(APP, kafka.bootstrap, never) as second:
        wait_for_results(kafka.bootstrap, topics.results, 300)
        second.end(signal.SIGKILL)
    with ServiceProcess(APP, kafka.bootstrap, never) as third:
        wait_for_results(kafka.bootstrap, topics.results, 500)
        assert third.end() == 0
    report = check(kafka.bootstrap, topics, ids)
    assert report.silent, report
    assert report.duplicates == 200
    answers: dict[str, set[str]] = {}
    for message in read_all(kafka.bootstrap, topics.results):
        result = json_of(message)
        if result["status"] == "success":  # one of the two may have timed out
            answers.setdefault(headers_of(message)["ce_id"], set()).add(result["answer"])
    assert set(map(len, answers.values())) == {1}


@pytest.mark.fault(12)
def test_sigkill_between_the_events_of_a_query(kafka: RealBroker, make_topics: MakeTopics) -> None:
    """Results published before their stage results are acknowledged are not committed, but repeated."""
    topics, operator = make_topics(4), Operator(kafka.bootstrap)
    ids = [f"q{number}" for number in range(100)]
    settings = settings_for(topics, kafka__commit_interval_ms=50, **SHORT_SESSION)
    with ServiceProcess(APP, kafka.bootstrap, settings) as first:
        operator.delete_topic(topics.stage_results)
        write(kafka.bootstrap, topics.queries, [(name, event(name, "fast")) for name in ids])
        wait_for_results(kafka.bootstrap, topics.results, 100)
        first.end(signal.SIGKILL)
    assert committed(kafka.bootstrap, topics.prefix, topics.queries) == {}
    operator.create_topic(topics.stage_results, 4)
    with ServiceProcess(APP, kafka.bootstrap, settings) as second:
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 100)
        assert second.end() == 0
    report = check(kafka.bootstrap, topics, ids, limits=CUT_OFF)
    assert report.silent, report
    assert report.duplicates == 100
    stages = [headers_of(message)["ce_id"] for message in read_all(kafka.bootstrap, topics.stage_results)]
    assert (len(stages), len(set(stages))) == (500, 500)


@pytest.mark.fault(13)
def test_stopped_for_longer_than_its_session(
    kafka: RealBroker, make_topics: MakeTopics, record_property: RecordProperty
) -> None:
    """A process that continues without its partitions commits nothing for them, and rejoins."""
    topics, more = make_topics(8), [f"more{number}" for number in range(200)]
    settings = settings_for(topics, **SHORT_SESSION)
    with (
        Feeder(kafka.bootstrap, topics.queries, count=2000, rate=300) as feeder,
        ServiceProcess(APP, kafka.bootstrap, settings) as sleeper,
        ServiceProcess(APP, kafka.bootstrap, settings) as other,
    ):
        wait_for_partitions(sleeper, 4)
        wait_for_results(kafka.bootstrap, topics.results, 600)
        assert sleeper.process is not None
        sleeper.process.send_signal(signal.SIGSTOP)
        wait_for_partitions(other, 8)
        taken_over = sum(committed(kafka.bootstrap, topics.prefix, topics.queries).values())
        write(kafka.bootstrap, topics.queries, [(name, event(name)) for name in more])
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, taken_over + len(more))
        sleeper.process.send_signal(signal.SIGCONT)
        sleeper.wait_for("revoked")
        wait_for_partitions(sleeper, 4)
        wait_until_committed(kafka.bootstrap, topics.prefix, topics.queries, 2000 + len(more))
        assert (sleeper.end(), other.end()) == (0, 0)
    report = check(kafka.bootstrap, topics, [*feeder.ids, *more], limits=UNTIMED)
    record_property("answered twice", report.duplicates)
    assert report.silent, report
    assert answered_too_often(kafka, topics, sleeper, other) == {}
