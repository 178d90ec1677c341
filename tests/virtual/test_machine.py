"""State machine test of the dispatcher: slots, lanes, key order, offsets and drains, in any interleaving."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Any

import hypothesis
import hypothesis.strategies as st
import orjson
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from fivestage.core.records import PlainRecord

from .samples import block
from .world import CLOCK_S, KEYS, MAX_HELD_BYTES, MAX_IN_FLIGHT, TOPIC, TOTAL_S, WALL, WEIGHTS, Entry, World

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.ledger import PartitionKey

NUMBERS = st.integers(0, 50)
KINDS = st.lists(
    st.sampled_from(["query"] * 9 + ["nameless", "unreadable", "elsewhere", "expired"]),
    min_size=1,
    max_size=7,
)
LANES = st.sampled_from(["prod", "prod", "canary", "canary", "bulk"])
COMMIT_S = 0.02
STEPS_S = st.sampled_from([0.001, 0.004, 0.01, 0.03, 0.06, 0.13, 0.3])


def times(budget_ms: int | None, due_at: float | None) -> dict[str, Any]:
    """Build the fields that set a query's budget and deadline."""
    fields: dict[str, Any] = {} if budget_ms is None else {"budget_ms": budget_ms}
    if due_at is not None:
        fields["deadline"] = datetime.fromtimestamp(WALL + due_at, UTC).isoformat()
    return fields


class Drain:
    """A drain and the offsets that it should leave."""

    def __init__(self, world: World, keys: frozenset[PartitionKey] | None, limit_s: float) -> None:
        self.keys = keys
        books = world.ledger.partitions
        self.epochs = {key: offsets.epoch for key, offsets in books.items() if keys is None or key in keys}
        """The assignments that it covers; later ones of the same partitions are not."""
        self.disturbed = False
        self.ends_at = world.loop.time() + limit_s
        world.note_drain(keys)
        self.task = world.loop.create_task(world.drain(limit_s, keys))


class DispatcherMachine(RuleBasedStateMachine):
    """Random records, partition changes, drains and slow brokers, with time passing."""

    @initialize(ordering=st.sampled_from(["unordered", "key"]), limit=st.integers(1, MAX_IN_FLIGHT))
    def begin(self, ordering: str, limit: int) -> None:
        self.world = World(ordering)
        self.drains: list[Drain] = []
        self.world.slots._limiter.limit = limit
        self.is_well = True
        """Whether the last check found no violation; otherwise the final checks are skipped."""

    def turn(self) -> None:
        """Run everything that is due now."""
        self.world.run(asyncio.sleep(0))
        while done := [drain for drain in self.drains if drain.task.done()]:
            self.drains.remove(done[0])
            self.drained(done[0])

    def running(self, *, waiting: bool = False) -> list[Job]:
        """Jobs that run or wait for a thread, without those whose queries have ended."""
        jobs = self.world.executor.jobs
        return [job for job in jobs if not job.ended and (job.waits_since is not None) is waiting]

    # Records

    @rule(
        partition=st.integers(0, 1),
        key=st.sampled_from([None, b"a", b"b"]),
        kinds=KINDS,
        lane=LANES,
        budget_ms=st.sampled_from([None, None, None, 20, 100, 400]),
        due_ms=st.sampled_from([None, None, None, 15, 60, 200, 1000]),
    )
    def arrive(
        self,
        partition: int,
        key: bytes | None,
        kinds: list[str],
        lane: str,
        budget_ms: int | None,
        due_ms: int | None,
    ) -> None:
        """Write records of one key to a partition."""
        for kind in kinds:
            self.write(partition, key, kind, lane, budget_ms, due_ms)
        self.turn()

    def write(
        self,
        partition: int,
        key: bytes | None,
        kind: str,
        lane: str,
        budget_ms: int | None,
        due_ms: int | None,
    ) -> None:
        """Write a record."""
        world, log = self.world, self.world.logs[partition]
        due_at = None if due_ms is None else round(world.loop.time() + due_ms / 1000, 3)
        due_at = -1.0 if kind == "expired" else due_at
        fields = {"query_id": f"{partition}.{len(log)}", "user_input": "any", "lane": lane}
        if kind == "elsewhere":
            fields["lane"] = kind
        value = {"nameless": b"{", "unreadable": b'{"query_id":"x"}'}.get(kind)
        if value is None:
            value = orjson.dumps({**fields, **times(budget_ms, due_at)})
        record = PlainRecord(TOPIC, partition, len(log), -1, key, value)
        is_query = kind in {"query", "expired"}
        budget_s = min(TOTAL_S, (budget_ms or 1000) / 1000)
        log.append(Entry(record, lane if is_query else None, budget_s, inf if due_at is None else due_at))
        world.arrived.set()

    @rule(seconds=STEPS_S)
    def pass_time(self, seconds: float) -> None:
        self.world.run(asyncio.sleep(seconds))
        self.turn()

    @rule(seconds=st.sampled_from([0.004, 0.02, 0.06, 0.3]))
    def block(self, seconds: float) -> None:
        """Block the loop for a while."""
        world, since = self.world, self.world.loop.time()

        async def hold() -> None:
            block(seconds)

        world.blocked.append((since, since + seconds))
        world.run(hold())
        self.turn()

    # Queries

    @precondition(lambda self: self.world.executor.jobs)
    @rule(number=NUMBERS, fails=st.booleans())
    def end(self, number: int, fails: bool) -> None:  # noqa: FBT001 - hypothesis gives it by name
        """End the stages of a query, possibly too late."""
        jobs = [job for job in self.world.executor.jobs if job.waits_since is None]
        if jobs:
            self.on_loop(lambda: self.world.executor.end(jobs[number % len(jobs)], fails=fails))

    @precondition(lambda self: self.running())
    @rule(number=NUMBERS, parks=st.booleans())
    def hang(self, number: int, parks: bool) -> None:  # noqa: FBT001 - likewise
        """Start a stage that never ends, or one that waits for a thread."""
        jobs = self.running()
        job = jobs[number % len(jobs)]
        if job.history.running is None:
            self.on_loop(lambda: self.world.park(job) if parks else self.world.executor.hang(job))

    @precondition(lambda self: self.running(waiting=True))
    @rule(number=NUMBERS)
    def unpark(self, number: int) -> None:
        jobs = self.running(waiting=True)
        self.on_loop(lambda: self.world.unpark(jobs[number % len(jobs)]))

    def on_loop(self, step: object) -> None:
        """Run a step in a callback of the loop."""
        self.world.loop.call_soon(step)  # type: ignore[arg-type] # all are functions without arguments
        self.turn()

    # Partitions

    @precondition(lambda self: self.world.ledger.partitions)
    @rule(number=NUMBERS)
    def lose(self, number: int) -> None:
        """Lose a partition without a drain."""
        keys = list(self.world.ledger.partitions)
        self.revoke(frozenset({keys[number % len(keys)]}))
        self.turn()

    def revoke(self, keys: frozenset[PartitionKey]) -> None:
        """Revoke partitions; a waiting drain notices when one of their queries ends."""
        self.world.ledger.revoke(keys)
        for drain in self.drains:
            drain.disturbed = True

    @precondition(lambda self: len(self.world.ledger.partitions) < len(KEYS))
    @rule()
    def assign(self) -> None:
        """Assign all partitions that are not being revoked."""
        leaving = {key for drain in self.drains for key in drain.keys or ()}
        self.world.assign(frozenset(KEYS).difference(self.world.ledger.partitions, leaving))
        for drain in self.drains:
            self.world.note_drain(drain.keys)
        self.turn()

    @precondition(lambda self: self.world.ledger.partitions)
    @rule(
        which=st.sampled_from([(0,), (1,), (0, 1), None]), limit_s=st.sampled_from([0.0, 0.02, 0.4, 5.0, 5.0])
    )
    def drain(self, which: tuple[int, ...] | None, limit_s: float) -> None:
        """Start to drain partitions, or everything at shutdown."""
        keys = None if which is None else frozenset(KEYS[number] for number in which)
        self.drains.append(Drain(self.world, keys, limit_s))
        self.turn()

    @precondition(lambda self: self.world.ledger.partitions and not self.drains)
    @rule(number=st.integers(0, 1))
    def rebalance(self, number: int) -> None:
        """Drain a partition, revoke it and assign it again."""
        self.acknowledge_later(hold=False)
        self.on_loop(self.world.acknowledge_all)
        self.drain((number,), 5.0)
        for _ in range(3):
            self.pass_time(0.3)
        if len(self.world.ledger.partitions) < len(KEYS):
            self.assign()

    @precondition(lambda self: self.drains)
    @rule(number=NUMBERS)
    def cancel_drain(self, number: int) -> None:
        """Cancel a drain, as the client may; the offsets it would leave are lost."""
        self.drains[number % len(self.drains)].task.cancel()
        self.turn()

    def drained(self, drain: Drain) -> None:
        """Commit after a drain, and give the partitions up."""
        world, ledger = self.world, self.world.ledger
        assigned = frozenset(ledger.partitions)
        keys = assigned if drain.keys is None else assigned & drain.keys
        mine = [
            entry
            for entry in world.present()
            if drain.epochs.get(KEYS[entry.record.partition]) == entry.epoch
        ]
        if not drain.task.cancelled():
            world.commit()
            if drain.task.result():
                under_way = [one for one in mine if (one.job or one.published) and not one.acked]
                world.must(not under_way, "a drain waits for what is under way", under_way)
                again = [one for one in mine if one.published and not world.is_committed(one)]
                world.must(not again, "what was answered is committed", again)
            else:
                world.must(
                    world.loop.time() >= drain.ends_at - CLOCK_S,
                    "a drain does not give up early",
                    drain.ends_at,
                )
        for key in keys:  # a commit takes time, in which more records are read
            self.write(key.partition, None, "query", "prod", None, None)
        world.run(asyncio.sleep(COMMIT_S))
        self.revoke(keys)
        self.world.run(asyncio.sleep(0))

    # Brokers and learned state

    @rule(hold=st.booleans())
    def acknowledge_later(self, hold: bool) -> None:  # noqa: FBT001 - likewise
        """Delay later acknowledgements, or send them at once; earlier ones stay delayed."""
        self.world.hold = hold

    @precondition(lambda self: self.world.unacked)
    @rule(number=NUMBERS)
    def acknowledge(self, number: int) -> None:
        """Acknowledge the events of one record."""
        self.on_loop(lambda: self.world.acknowledge(number % len(self.world.unacked)))

    @precondition(lambda self: self.world.unacked)
    @rule()
    def acknowledge_all(self) -> None:
        self.on_loop(self.world.acknowledge_all)

    @precondition(lambda self: self.world.ledger.committable())
    @rule()
    def commit(self) -> None:
        self.world.commit()

    @rule(limit=st.integers(1, MAX_IN_FLIGHT))
    def learn(self, limit: int) -> None:
        """Lower or raise the concurrency limit."""
        self.world.slots._limiter.limit = limit
        self.on_loop(self.world.dispatcher._fill)

    # Invariants

    @invariant()
    def all_is_well(self) -> None:
        self.is_well = False
        assert not self.world.broken, self.world.broken[:3]
        self.slots_are_those_of_what_runs()
        self.what_waits_is_in_its_lane()
        self.none_is_overdue()
        self.positions_are_behind_what_is_finished()
        self.drains_end()
        self.is_well = True

    def slots_are_those_of_what_runs(self) -> None:
        """No slot is lost, counted twice, or free while a query could use it."""
        world, slots = self.world, self.world.slots
        lanes = Counter(job.query.lane for job in (*self.running(), *world.executor.enqueued))
        assert {lane: slots._running[lane] for lane in WEIGHTS} == {lane: lanes[lane] for lane in WEIGHTS}
        assert (slots.running, slots.enqueued, world.dispatcher.active.parked) == (
            len(self.running()),
            len(world.executor.enqueued),
            len(self.running(waiting=True)),
        )
        assert slots.held_bytes == sum(one.size for one in world.unacked)
        may_run = slots.running < slots.limit and slots.held_bytes < MAX_HELD_BYTES
        assert not ((slots.waiting or slots.enqueued) and may_run)

    def what_waits_is_in_its_lane(self) -> None:
        waiting = Counter(entry.lane for entry in self.world.waiting() if not self.is_leaving(entry))
        for lane in WEIGHTS:
            assert len(self.world.slots._queues._queues.get(lane, ())) >= waiting[lane]

    def none_is_overdue(self) -> None:
        world = self.world
        for entry in world.present():
            if not entry.published and (entry.job is not None or not self.is_leaving(entry)):
                assert world.loop.time() <= world.latest(entry), entry

    def positions_are_behind_what_is_finished(self) -> None:
        """A partition's position is its first record that is not acknowledged."""
        world = self.world
        for key, offsets in world.ledger.partitions.items():
            first, end = world.first[key.partition], world.next[key.partition]
            log = world.logs[key.partition][first:end]
            unfinished = next((one.record.offset for one in log if not one.acked), end)
            assert offsets.position == (unfinished if log else None)

    def drains_end(self) -> None:
        """A drain ends once nothing runs and nothing must be answered before something answered.

        Queries behind a revoked one of the same key wait for its end.
        """
        world = self.world
        if any(not job.ended and world.entries[job.number].job is not job for job in world.executor.jobs):
            return
        for drain in self.drains:
            mine = [
                one for one in world.present() if not drain.keys or KEYS[one.record.partition] in drain.keys
            ]
            answered = [one for one in mine if one.job or one.published]
            if not drain.disturbed and all(one.acked for one in answered):
                last = {one.record.partition: one.record.offset for one in answered}
                assert any(
                    one.record.offset < last.get(one.record.partition, 0) for one in mine if not one.acked
                )

    def is_leaving(self, entry: Entry) -> bool:
        """Return whether a drain has started since the entry was handed out: the next owner may answer it."""
        return any(drain.keys is None or KEYS[entry.record.partition] in drain.keys for drain in self.drains)

    def teardown(self) -> None:
        """In the end every record is answered and committed, and no state is left."""
        if not hasattr(self, "world"):
            return
        world = self.world
        try:
            if self.is_well:
                self.come_to_rest()
        finally:
            world.close()

    def come_to_rest(self) -> None:
        """Provide whatever is missing, until nothing more happens."""
        world, dispatcher = self.world, self.world.dispatcher
        world.hold = False
        for drain in self.drains:
            drain.task.cancel()
        self.turn()
        self.assign()
        for _ in range(sum(map(len, world.logs)) + 5):
            self.acknowledge_all()
            self.on_loop(world.executor.end_all)
            world.run(asyncio.sleep(0.3))
        self.acknowledge_all()
        assert not world.broken, world.broken[:3]
        assert all(entry.acked or world.is_committed(entry) for log in world.logs for entry in log)
        assert all(entry.answers for log in world.logs for entry in log)
        world.commit()
        assert world.committed == [len(log) for log in world.logs]
        assert (dispatcher.in_flight, dispatcher.waiting, dispatcher.slots.running) == (0, 0, 0)
        assert (dispatcher.slots.enqueued, world.executor.enqueued) == (0, [])
        assert (dispatcher.slots.held_bytes, len(dispatcher.rejections), dispatcher.active.jobs) == (0, 0, {})
        assert (dispatcher.slots.input_bytes, dispatcher.key_lines.length) == (0, 0)
        assert not any(offsets.in_line or offsets.line_bytes for offsets in world.ledger.partitions.values())
        assert dispatcher.key_lines._order is None or not dispatcher.key_lines._order._queues


TestDispatcherMachine = DispatcherMachine.TestCase
TestDispatcherMachine.settings = hypothesis.settings(max_examples=120, stateful_step_count=40)


def test_a_limit_that_rises_when_a_query_goes_on() -> None:
    """A query goes on after its wait for a thread; where that raises the limit, slots are filled."""
    machine = DispatcherMachine()
    machine.begin(ordering="unordered", limit=5)
    machine.arrive(budget_ms=None, due_ms=None, key=None, kinds=["query"] * 6, lane="prod", partition=0)
    machine.learn(limit=1)
    machine.end(fails=False, number=0)
    machine.hang(number=0, parks=True)
    machine.unpark(number=0)
    machine.all_is_well()
    machine.teardown()
