"""Queries that wait in the executor for the next slot: when they are handed over, start, and are rejected."""

from __future__ import annotations

import asyncio
import datetime as dt
from typing import TYPE_CHECKING

import pytest

from fivestage.core.job import Job
from fivestage.core.plan import Plan
from fivestage.core.records import Output
from fivestage.executors import InlineExecutor
from fivestage.executors.task_host import TaskHost
from fivestage.pipeline.context import Query
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus

from .samples import (
    KEY,
    FakeNode,
    Listening,
    ask_many,
    finish,
    in_virtual_time,
    pipeline,
    query,
    statuses,
    timeouts,
    timestamp,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage.core.stage_history import StageHistory
    from fivestage.pipeline.step_monitor import StepMonitor

SLOTS = 8
QUICK_S = 0.02
TRACEPARENT = b"00-0123456789abcdef0123456789abcdef-0123456789abcdef-01"


class Ahead(InlineExecutor):
    """An executor with a local queue, on the bus loop."""

    def __init__(self, orchestrator: Orchestrator) -> None:
        super().__init__(orchestrator)
        self.local_queue = self  # type: ignore[assignment]
        self.submitted: list[str] = []
        self.enqueued: list[str] = []

    def submit(self, job: Job) -> None:
        self.submitted.append(job.query.query_id)
        super().submit(job)

    def enqueue(self, job: Job) -> None:
        self.enqueued.append(job.query.query_id)
        self._registry.add(job)
        self._host.enqueue(job)

    def dequeue(self, job: Job) -> bool:
        if not self._host.dequeue(job):
            return False
        self._registry.forget(job)
        return True


class Fixture:
    """A bus whose node ``any`` has been quick so far."""

    def __init__(self) -> None:
        self.node, self.observer = FakeNode(QUICK_S), Listening()
        app = pipeline(any=self.node)
        self.executor = Ahead(Orchestrator(app))
        limits = {"total_timeout_ms": 1000, "stage_timeouts_ms": {"processing": 1000}}
        admission = {"max_in_flight": SLOTS, "adaptive_limit": False}
        settings = Settings.model_validate(
            {"pipeline": limits, "admission": admission, "adaptive": {"enabled": False}}
        )
        self.bus = MemoryBus(app, settings=settings, executor=self.executor, observer=self.observer)

    @property
    def enqueued(self) -> int:
        """How many queries wait in the executor."""
        return len(self.bus.dispatcher.active.enqueued)

    async def fill(self, takes_s: float, count: int = SLOTS + 2) -> None:
        """Ask as many queries that take this long, until all slots are taken."""
        self.node.takes_s = takes_s
        for number in range(count):
            self.bus.put(query(f"long{number}"))
        await asyncio.sleep(0.001)
        assert self.bus.dispatcher.slots.running == SLOTS


@pytest.fixture(name="quick")
async def _quick() -> AsyncIterator[Fixture]:
    """A bus that has answered enough queries to know that its node is quick."""
    fixture = Fixture()
    async with fixture.bus:
        await ask_many(fixture.bus, "first", 2 * SLOTS)
        fixture.executor.submitted.clear()
        fixture.executor.enqueued.clear()
        fixture.node.calls.clear()
        yield fixture


async def test_the_executor_starts_the_next_itself(quick: Fixture) -> None:
    """Under load all but the first queries are started by the executor, in order, and each slot is used."""
    for number in range(50 * SLOTS):
        quick.bus.put(query(f"q{number}"))
        await asyncio.sleep(QUICK_S / SLOTS if number < SLOTS - 1 else 0)
    await finish(quick.bus, 52 * SLOTS)
    assert quick.node.calls == [f"q{number}" for number in range(50 * SLOTS)]
    assert quick.executor.submitted == [f"q{number}" for number in range(SLOTS)]
    assert (quick.node.highest, statuses(quick.bus)) == (SLOTS, {"success": 52 * SLOTS})


async def test_as_many_wait_as_end_during_a_hand_over(quick: Fixture) -> None:
    """Of 8 slots for 20 ms three come free within 8 ms, so three queries wait in the executor."""
    await quick.fill(QUICK_S, count=40)
    assert (quick.enqueued, quick.bus.dispatcher.waiting) == (3, 40 - SLOTS)
    await asyncio.sleep(1)
    assert quick.enqueued == quick.bus.dispatcher.slots.enqueued == 0


async def test_none_waits_in_the_executor_where_nodes_are_slow() -> None:
    """Where a hand-over takes little of a query's time, the dispatcher decides when a slot is free."""
    slow = Fixture()
    slow.node.takes_s = 0.2
    async with slow.bus:
        await ask_many(slow.bus, "q", 10 * SLOTS)
    assert slow.executor.enqueued == []


async def test_the_time_of_a_query_begins_at_its_start(quick: Fixture) -> None:
    """The wait in the executor is no part of a query's budget or duration, but of its time in the queue."""
    in_virtual_time(quick.bus)
    quick.node.takes_s = 0.2
    for number in range(SLOTS + 2):
        quick.bus.put(query(f"q{number}"), timestamp=timestamp())
    await finish(quick.bus, 3 * SLOTS + 2)
    assert quick.executor.enqueued == ["q8", "q9"]
    for number in range(SLOTS + 2):
        event = quick.bus.result(f"q{number}")
        assert event is not None
        assert event.status == "success"
        assert event.metrics.total_duration_ms == pytest.approx(200, abs=1)
        assert event.metrics.queue_ms == pytest.approx(200 if number >= SLOTS else 0, abs=1)


async def test_a_slot_that_a_deadline_frees_is_filled_by_the_dispatcher(quick: Fixture) -> None:
    """Queries that end at their deadlines complete nothing: those that wait are taken back and started."""
    await quick.fill(60)
    assert quick.enqueued == 2
    quick.node.takes_s = QUICK_S
    await asyncio.sleep(1.1)
    assert quick.executor.submitted[SLOTS:] == ["long8", "long9"]
    assert statuses(quick.bus) == {"success": 2 * SLOTS + 2, "timeout": SLOTS}


async def started_by(host: TaskHost, *jobs: Job) -> None:
    """Enqueue all but the first of these jobs, and run the first."""
    for job in jobs[1:]:
        host.enqueue(job)
    host.start(jobs[0], jobs[0].history)
    await asyncio.sleep(0.01)


def some_jobs(count: int, due_at: float | None = None) -> list[Job]:
    """Make jobs."""
    plan = Plan.of()
    return [Job(Query("q", "any"), plan, started_at=0.0, ends_at=9.0, due_at=due_at) for _ in range(count)]


@pytest.mark.parametrize("has_ended", [False, True])
async def test_a_slot_that_was_given_away_starts_none(*, has_ended: bool) -> None:
    """A job that completes when its query has just ended starts none: the bus loop has filled its slot."""
    started: list[Job] = []

    async def run(job: Job, history: StageHistory, _monitor: StepMonitor | None) -> None:
        started.append(job)
        history.closed = has_ended

    host, (first, second) = TaskHost(run, lambda *_: None), some_jobs(2)
    await started_by(host, first, second)
    assert started == ([first] if has_ended else [first, second])
    assert host.dequeue(second) is has_ended


async def test_a_slot_is_used_once() -> None:
    """As soon as an end is reported the bus loop may use the slot: the next job was taken before that."""
    started: list[Job] = []
    jobs = some_jobs(3)

    async def run(job: Job, _history: StageHistory, _monitor: StepMonitor | None) -> None:
        started.append(job)
        if job is not jobs[0]:
            await asyncio.sleep(60)

    found: list[bool] = []
    host = TaskHost(run, lambda *_: found.append(host.dequeue(jobs[1])))
    await started_by(host, *jobs)
    assert (started, found) == ([jobs[0], jobs[1]], [False])
    await host.stop(1.0)


async def test_none_starts_after_its_end_to_end_deadline() -> None:
    """Where the bus loop is late, the executor leaves a query that is due to it, and starts the next."""
    started: list[Job] = []

    async def run(job: Job, _history: StageHistory, _monitor: StepMonitor | None) -> None:
        started.append(job)

    host = TaskHost(run, lambda *_: None)
    [first, third], [due] = some_jobs(2), some_jobs(1, due_at=asyncio.get_running_loop().time() - 0.001)
    await started_by(host, first, due, third)
    assert started == [first, third]
    assert host.dequeue(due)


async def test_a_query_expires_in_the_executor(quick: Fixture) -> None:
    """At its end-to-end deadline it is rejected as one that waits for a slot: its code has not run."""
    in_virtual_time(quick.bus)
    await quick.fill(0.2, SLOTS)
    due = dt.datetime.fromtimestamp(timestamp() / 1000 + 0.1, dt.UTC)
    quick.bus.put(query("late", deadline=due.isoformat()), headers=[("traceparent", TRACEPARENT)])
    await asyncio.sleep(0.001)
    assert quick.executor.enqueued == ["late"]
    await asyncio.sleep(0.3)
    [event], [note] = timeouts(quick.bus), quick.bus.sink.of(Output.TIMEOUTS)
    assert (event.query_id, event.reason) == ("late", "expired_before_start")
    assert dict(note.headers)["traceparent"][:36] == TRACEPARENT[:36]
    assert "late" not in quick.node.calls
    assert quick.observer.expirations == {"expired_before_start": 1}
    assert quick.bus.dispatcher.slots.enqueued == quick.bus.dispatcher.in_flight == 0


async def test_a_lower_limit_is_kept(quick: Fixture) -> None:
    """Once more queries run than may, none is handed over ahead, and those that wait start one by one."""
    await quick.fill(QUICK_S, count=60)
    waiting = quick.enqueued
    quick.bus.dispatcher.slots._limiter._move(2, asyncio.get_running_loop().time())
    await asyncio.sleep(1.5 * QUICK_S)
    assert (quick.bus.dispatcher.slots.running, quick.enqueued) == (waiting, 0)
    await asyncio.sleep(QUICK_S)
    assert quick.bus.dispatcher.slots.running == 2


async def test_lanes_keep_their_shares_in_the_executor(quick: Fixture) -> None:
    """A query that waits in the executor counts as one of its lane where the next lane is chosen."""
    for number in range(SLOTS):
        quick.bus.put(query(f"first{number}", lane="prod" if number < 5 else "bulk"))
    for lane in ("prod", "bulk"):
        for number in range(10):
            quick.bus.put(query(f"{lane}{number}", lane=lane))
    await asyncio.sleep(0.001)
    assert quick.executor.enqueued == ["bulk0", "bulk1", "prod0"]


async def test_a_drain_waits_for_what_waits_in_the_executor(quick: Fixture) -> None:
    """Queries that were handed over count as started: a drain does not leave them to the next reader."""
    await quick.fill(QUICK_S, count=40)
    handed = quick.enqueued
    assert await quick.bus.dispatcher.drain(1.0)
    assert statuses(quick.bus)["success"] == 2 * SLOTS + SLOTS + handed


async def test_what_waits_in_the_executor_is_dropped_at_the_end_of_a_drain(quick: Fixture) -> None:
    """After a drain that could not wait for all, nothing of the partition starts."""
    await quick.fill(0.5)
    assert quick.enqueued == 2
    assert not await quick.bus.dispatcher.drain(0.1)
    await asyncio.sleep(1)
    assert not {"long8", "long9"} & set(quick.node.calls)
    assert (quick.enqueued, quick.bus.dispatcher.slots.enqueued, quick.bus.dispatcher.in_flight) == (0, 0, 0)


async def test_what_is_taken_back_must_be_assigned(quick: Fixture) -> None:
    """A query that has waited in the executor is dropped if its partition was revoked meanwhile."""
    await quick.fill(60)
    assert quick.executor.enqueued == ["long8", "long9"]
    quick.bus.ledger.revoke(frozenset({KEY}))
    await asyncio.sleep(1.1)
    assert not {"long8", "long9"} & set(quick.node.calls)
    assert (quick.bus.dispatcher.slots.enqueued, quick.bus.dispatcher.in_flight) == (0, 0)


async def test_a_start_counts_before_its_report(quick: Fixture) -> None:
    """A query that the executor has started and not reported yet has its own times when it ends or moves."""
    await quick.fill(0.5)
    active = quick.bus.dispatcher.active
    ends, moves = (job for job in active.jobs.values() if job in active.enqueued)
    await asyncio.sleep(0.1)
    now = asyncio.get_running_loop().time()
    for job in (ends, moves):
        assert quick.executor._host._take_next() is job
    moves.move()
    active.finished(ends)
    for job in (ends, moves):
        assert (job.started_at, job.ends_at) == pytest.approx((now, now + 1))
    assert (quick.enqueued, quick.bus.dispatcher.slots.enqueued) == (0, 0)
    assert quick.bus.dispatcher.slots.running == SLOTS + 1


async def test_what_waits_in_a_blocked_loop_moves_with_the_next(quick: Fixture) -> None:
    """Queries in the queue of a loop that gets no more jobs move to the queue in use, in order."""
    await quick.fill(0.2, SLOTS + 1)
    other = Ahead(Orchestrator(quick.bus.executor._orchestrator.app))  # type: ignore[attr-defined]
    quick.executor.local_queue = other  # type: ignore[assignment]
    quick.bus.put(query("next"))
    await asyncio.sleep(0.001)
    assert (quick.executor.enqueued, other.enqueued) == (["long8"], ["long8", "next"])
    assert quick.bus.dispatcher.oldest_wait_since() is not None
