"""The simulated Kafka and its processes behave as real ones, where it matters."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from aiokafka import TopicPartition
from aiokafka.errors import IllegalGenerationError, RebalanceInProgressError, UnknownMemberIdError

from fivestage.core.records import PlainRecord

from .answers import Written
from .broker import QUERIES, Broker
from .group import Joined, State
from .loop import Process, SimLoop
from .network import NO_FAULTS, Connection, Faults, Network
from .trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SESSION_S, REBALANCE_S = 6.0, 9.0


@pytest.fixture
def loop() -> Iterator[SimLoop]:
    """Build a loop for processes."""
    loop = SimLoop()
    yield loop
    loop.dispose()


@pytest.fixture
def broker(loop: SimLoop) -> Broker:
    """Build brokers with a topic of two partitions."""
    return Broker(loop, Random(1), Trace(loop.time), partitions=2, output_partitions=1)


def ask(loop: SimLoop, handler: Callable[..., None], *args: Any) -> Any:
    """Return the broker's reply."""
    replied: asyncio.Future[Any] = loop.create_future()
    handler(replied.set_result, *args)
    return loop.run_until_complete(asyncio.wait_for(replied, 60))


def join(loop: SimLoop, broker: Broker, member_id: str = "") -> Joined:
    """Join as the only member, and take the assignment."""
    joined: Joined = ask(loop, broker.group.join, "i0", member_id, SESSION_S, REBALANCE_S)
    ask(loop, broker.group.sync, joined.member_id, joined.generation)
    return joined


def pass_time(loop: SimLoop, seconds: float) -> None:
    """Let time pass."""
    loop.run_until_complete(asyncio.sleep(seconds))


# Processes


def test_a_stopped_process_runs_late(loop: SimLoop) -> None:
    """Timers due while a process was stopped fire at once when it continues, and not before."""
    process, woke_at = Process("p"), []

    async def main() -> None:
        for _ in range(2):
            await asyncio.sleep(1.0)
            woke_at.append(loop.time())

    loop.spawn(process, main)
    loop.call_later(0.5, loop.stop_process, process)
    loop.call_later(5.0, loop.continue_process, process)
    pass_time(loop, 10)
    assert woke_at == [pytest.approx(5.0), pytest.approx(6.0)]


def test_a_killed_process_does_nothing_more(loop: SimLoop) -> None:
    """Nothing of a killed process runs again, not even ``finally``."""
    process, ran = Process("p"), []

    async def main() -> None:
        try:
            await asyncio.sleep(1.0)
        finally:
            ran.append("finally")

    loop.spawn(process, main)
    loop.call_later(0.5, loop.kill, process)
    pass_time(loop, 10)
    assert not ran


# Requests


@pytest.mark.parametrize(("fate", "done"), [("lost_request", []), ("lost_response", ["it"])])
def test_a_request_that_fails_may_have_been_done(loop: SimLoop, fate: str, done: list[str]) -> None:
    """A client whose connection breaks does not know whether the broker handled the request."""
    network = Network(loop, Random(1), Faults(**{fate: 1.0}), Trace(loop.time))
    found: list[str] = []

    def handler(reply: Callable[[Any], None]) -> None:
        found.append("it")
        reply(None)

    with pytest.raises(Exception, match="KafkaConnectionError"):
        loop.run_until_complete(Connection(network, "c", timeout_s=5).call("commit", handler))
    pass_time(loop, 1)
    assert found == done


def test_a_connection_carries_one_request_at_a_time(loop: SimLoop) -> None:
    """A request behind one that waits in the broker is handled after its response."""
    network = Network(loop, Random(1), NO_FAULTS, Trace(loop.time))
    connection, seen = Connection(network, "c", timeout_s=5), []

    def slow(reply: Callable[[Any], None]) -> None:
        seen.append("slow")
        loop.call_later(2.0, reply, None)

    def quick(reply: Callable[[Any], None]) -> None:
        seen.append(f"quick after {loop.time():.0f} s")
        reply(None)

    async def both() -> None:
        await asyncio.gather(connection.call("join", slow), connection.call("commit", quick))

    loop.run_until_complete(both())
    assert seen == ["slow", "quick after 2 s"]


# The group


def test_commits_of_members_that_own_nothing_are_taken(loop: SimLoop, broker: Broker) -> None:
    """As in Kafka, generation and membership are checked, not ownership; the callback is informed."""
    joined = join(loop, broker)
    broker.group.owners = {0: "another member", 1: joined.member_id}
    broker.about[0, 0].append(Written((0, 0), "dead_letter", "", None, "i0"))
    assert ask(loop, broker.group.commit, joined.member_id, joined.generation, {0: 1}) is None
    assert broker.committed == {0: 1}
    assert "only the owner commits" in broker._trace.violations[0]


def test_commits_of_other_generations_are_refused(loop: SimLoop, broker: Broker) -> None:
    """Neither an old generation nor an unknown member may commit."""
    joined = join(loop, broker)
    assert ask(loop, broker.group.commit, joined.member_id, joined.generation - 1, {0: 1}) is (
        IllegalGenerationError
    )
    assert ask(loop, broker.group.commit, "unknown", joined.generation, {0: 1}) is UnknownMemberIdError


def test_a_member_that_does_not_rejoin_is_expelled(loop: SimLoop, broker: Broker) -> None:
    """A rebalance waits for its members, and continues without those that do not rejoin in time."""
    first = join(loop, broker)
    replied: list[Any] = []
    broker.group.join(replied.append, "i1", "", SESSION_S, REBALANCE_S)
    assert ask(loop, broker.group.heartbeat, first.member_id, first.generation) is RebalanceInProgressError
    assert not replied
    pass_time(loop, REBALANCE_S + 1)
    assert replied[0].generation == first.generation + 1
    assert set(broker.group.members) == {replied[0].member_id}


def test_a_silent_member_is_expelled(loop: SimLoop, broker: Broker) -> None:
    """A member without a heartbeat for a session is expelled."""
    join(loop, broker)
    pass_time(loop, SESSION_S + 1)
    assert broker.group.state is State.EMPTY


# The broker


def query(broker: Broker, partition: int) -> None:
    """Write a query."""
    offset = len(broker.queries[partition])
    broker.write(PlainRecord(QUERIES, partition, offset, -1, b"k", b'{"query_id": "q", "user_input": "?"}'))


def test_a_commit_ahead_of_the_answers_is_seen_at_once(loop: SimLoop, broker: Broker) -> None:
    """Committing past a record without its events breaks a promise at once."""
    joined = join(loop, broker)
    query(broker, 0)
    ask(loop, broker.group.commit, joined.member_id, joined.generation, {0: 1})
    assert "commits only what is answered" in broker._trace.violations[0]


def test_a_fetch_waits_for_records(loop: SimLoop, broker: Broker) -> None:
    """A fetch returns when enough bytes came, or with what is there after a timeout."""
    partition = TopicPartition(QUERIES, 0)
    loop.call_later(0.5, query, broker, 0)
    fetched = ask(loop, broker.fetch, {partition: 0}, 1.0, 1)
    assert (loop.time(), [record.offset for record in fetched[partition].records]) == (0.5, [0])
    fetched = ask(loop, broker.fetch, {partition: 1}, 1.0, 1)
    assert (loop.time(), fetched[partition].records) == (1.5, [])
    fetched = ask(loop, broker.fetch, {partition: 0}, 1.0, 1000)
    assert (loop.time(), [record.offset for record in fetched[partition].records]) == (2.5, [0])
