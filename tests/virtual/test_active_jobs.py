"""Deadlines of running queries: one timer for all."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from fivestage._deadline_timer import SWEEP_AT
from fivestage.core.admission.thread_queues import PATIENCE
from fivestage.core.job import Job
from fivestage.core.stage_run import StageRun
from fivestage.executors import InlineExecutor
from fivestage.pipeline.orchestrator import Orchestrator
from fivestage.settings import Settings
from fivestage.testing.memory import MemoryBus
from fivestage_schemas import Outcome

from .samples import EPOCH, FakeNode, block, in_virtual_time, pipeline, query, timestamp

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from fivestage.core.outcome import QueryOutcome

PATIENT = {"pipeline": {"total_timeout_ms": 60_000}}


class Silent(InlineExecutor):
    """An executor whose jobs send nothing."""

    def submit(self, job: Job) -> None:
        pass

    def cancel(self, job: Job) -> None:
        pass


async def test_each_ends_at_its_own_deadline() -> None:
    """Each ends at its own deadline, in whatever order they started."""
    app = pipeline(any=FakeNode())
    loop, ends = asyncio.get_running_loop(), dict[int, int]()
    async with MemoryBus(app, executor=Silent(Orchestrator(app))) as bus:

        async def ask(budget_ms: int) -> None:
            await bus.ask("any", query_id=str(budget_ms), budget_ms=budget_ms)
            ends[budget_ms] = round(1000 * (loop.time() - started))

        started = loop.time()
        await asyncio.gather(*map(ask, (200, 50, 150, 100, 250)))
        assert bus.dispatcher.active.jobs == {}
    assert ends == {50: 50, 100: 100, 150: 150, 200: 200, 250: 250}


async def test_all_ends_that_are_due_are_published_before_a_query_starts() -> None:
    """Where many deadlines coincide, slots are filled again after the last of them has ended."""
    app, steps = pipeline(any=FakeNode()), list[str]()
    executor = Silent(Orchestrator(app))
    settings = Settings.model_validate({"admission": {"max_in_flight": 20, "adaptive_limit": False}})
    async with MemoryBus(app, settings=settings, executor=executor) as bus:
        publish = bus.sink.publish

        def note(records: Any, *rest: Any) -> None:
            steps.append("published")
            publish(records, *rest)

        bus.sink.publish = note  # type: ignore[method-assign,assignment]
        executor.submit = lambda _job: steps.append("started")  # type: ignore[method-assign,assignment]
        executor.cancel = lambda _job: steps.append("cancelled")  # type: ignore[method-assign,assignment]
        for number in range(40):
            bus.put(query(f"q{number}"))
        await asyncio.sleep(0.4)
        assert [(step, len(list(same))) for step, same in itertools.groupby(steps)] == [
            ("started", 20),
            ("published", 20),
            ("cancelled", 20),
            ("started", 20),
        ]


async def test_nothing_starts_while_an_end_is_due() -> None:
    """Where the loop turns only after deadlines have passed, overdue queries end before others start."""
    app, steps = pipeline(any=FakeNode()), list[str]()
    executor = Silent(Orchestrator(app))
    settings = Settings.model_validate({"admission": {"max_in_flight": 2, "adaptive_limit": False}})
    async with MemoryBus(app, settings=settings, executor=executor) as bus:
        publish = bus.sink.publish

        def note(records: Any, *rest: Any) -> None:
            steps.append("published")
            publish(records, *rest)

        bus.sink.publish = note  # type: ignore[method-assign,assignment]
        executor.submit = lambda _job: steps.append("started")  # type: ignore[method-assign,assignment]
        for number in range(4):
            bus.put(query(f"q{number}"))
        await asyncio.sleep(0.01)
        first, second = bus.dispatcher.active.jobs.values()
        block(0.3)
        bus.dispatcher.active.finished(first)  # its executor was faster than the timer of the second
        bus.dispatcher._fill_slice()
        assert steps == ["started", "started", "published"]
        await asyncio.sleep(0.01)
        assert second.ended
        assert steps == ["started", "started", "published", "published", "started", "started"]


async def test_what_has_ended_before_a_deadline_counts() -> None:
    """At a deadline the histories are first brought up to date: a worker process may be ahead of them."""
    app, jobs = pipeline(any=FakeNode()), list[Job]()
    executor = Silent(Orchestrator(app))
    executor.submit = jobs.append  # type: ignore[method-assign,assignment]

    def refresh() -> None:
        for job in jobs:
            job.history.finish(StageRun(job.plan.stages[0], Outcome.SUCCESS, b'"any"', started_at=0.0))
        jobs.clear()

    executor.refresh = refresh  # type: ignore[method-assign]
    async with MemoryBus(app, executor=executor) as bus:
        executor.check = lambda _: False  # type: ignore[method-assign]
        result = await bus.ask("any", query_id="q", budget_ms=100)
    assert [one.outcome for one in result.stages[:2]] == ["success", "skipped"]


async def test_an_error_in_one_ending_does_not_stop_the_others() -> None:
    """An error in one ending does not keep the others from ending at their deadlines."""
    app, ended = pipeline(any=FakeNode()), list[str]()
    async with MemoryBus(app, executor=Silent(Orchestrator(app))) as bus:
        running = bus.dispatcher.active
        go_on = running._on_ended

        def on_ended(job: Job, conclusion: QueryOutcome, now: float) -> None:
            go_on(job, conclusion, now)
            ended.append(job.query.query_id)
            if len(ended) == 1:
                raise RuntimeError("boom")

        running._on_ended = on_ended
        for budget_ms in (100, 100, 200):
            bus.put(b'{"query_id":"q%d","user_input":"any","budget_ms":%d}' % (budget_ms, budget_ms))
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await asyncio.sleep(1)
    assert ended == ["q100", "q100", "q200"]


async def test_entries_of_ended_queries_are_removed() -> None:
    """Entries of ended queries are removed, however far their deadlines are."""
    app = pipeline(any=FakeNode())
    async with MemoryBus(app, settings=Settings.model_validate(PATIENT)) as bus:
        for number in range(SWEEP_AT + 50):
            bus.put(b'{"query_id":"q%d","user_input":"any"}' % number)
        await asyncio.sleep(10)
        assert len(bus.results()) == SWEEP_AT + 50
        assert len(bus.dispatcher.active._deadlines) <= SWEEP_AT


@contextlib.asynccontextmanager
async def one_slot(**fields: Any) -> AsyncIterator[tuple[MemoryBus, Job]]:
    """Build a bus with one slot, at time 0, and two queries; return the one that holds the slot."""
    settings = Settings.model_validate({"admission": {"max_in_flight": 1}})
    app = pipeline(any=FakeNode())
    async with MemoryBus(app, settings=settings, executor=Silent(Orchestrator(app))) as bus:
        in_virtual_time(bus)
        bus.put(query("first", **fields), timestamp=timestamp())
        bus.put(query("second"), timestamp=timestamp())
        while not bus.dispatcher.slots.waiting:
            await asyncio.sleep(0)
        [job] = bus.dispatcher.active.jobs.values()
        yield bus, job


def counts(bus: MemoryBus) -> tuple[int, int, int]:
    """Return the numbers of queries with a slot, waiting for one, and waiting for a thread."""
    return bus.dispatcher.slots.running, bus.dispatcher.slots.waiting, bus.dispatcher.active.parked


async def until(at: float) -> None:
    """Sleep until this loop time."""
    await asyncio.sleep(at - asyncio.get_running_loop().time())


async def test_a_query_that_waits_for_a_thread_holds_no_slot() -> None:
    """A query that waits for a thread frees its slot, and continues with another and its remaining time."""
    async with one_slot() as (bus, job):
        running = bus.dispatcher.active
        assert counts(bus) == (1, 1, 0)
        await until(0.1)
        running.waits(job, job.history, "pool")
        running.waits(job, job.history, "pool")  # a stage history that was handed over reports it again
        await asyncio.sleep(0)
        assert counts(bus) == (1, 0, 1)
        assert bus.dispatcher.waiting == 1
        await until(0.4)  # after its deadline, which does not exist while it waits
        assert list(running.jobs) == [job.number]  # the second has ended at its deadline
        running.goes_on(job, job.history, job.started_at + 0.3, job.ends_at + 0.3)
        assert counts(bus) == (1, 0, 0)
        while (result := bus.result("first")) is None:
            await bus.sink.published()
        assert asyncio.get_running_loop().time() == pytest.approx(0.55)
        assert counts(bus) == (0, 0, 0)
    metrics = result.metrics
    assert (metrics.total_duration_ms, metrics.budget_ms, metrics.queue_ms) == pytest.approx((250, 250, 300))


async def test_the_wait_for_a_thread_is_bounded() -> None:
    """A query whose call gets no thread ends after a bounded wait, and frees its slot once."""
    async with one_slot() as (bus, job):
        await until(0.1)
        bus.dispatcher.active.waits(job, job.history, "pool")
        while (result := bus.result("first")) is None:
            await bus.sink.published()
        assert asyncio.get_running_loop().time() == pytest.approx(0.1 + PATIENCE * 0.25)
        assert counts(bus) == (0, 0, 0)
    assert (result.status, result.error) == ("timeout", "Pipeline timeout exceeded (250 ms)")
    assert result.metrics.total_duration_ms == pytest.approx(250)


async def test_a_query_that_waits_for_a_thread_ends_at_its_deadline() -> None:
    """A query that waits for a thread ends at the deadline that its producer has set."""
    due = dt.datetime.fromtimestamp(EPOCH + 0.3, dt.UTC)
    async with one_slot(deadline=due.isoformat()) as (bus, job):
        await until(0.1)
        bus.dispatcher.active.waits(job, job.history, "pool")
        while (result := bus.result("first")) is None:
            await bus.sink.published()
        assert asyncio.get_running_loop().time() == pytest.approx(0.3)
    assert result.status == "timeout"


async def test_reports_of_a_moved_or_ended_job_are_ignored() -> None:
    """Reports of a job that has moved or ended change nothing."""
    async with one_slot() as (bus, job):
        running, old = bus.dispatcher.active, job.history
        job.move()
        running.waits(job, old, "pool")
        running.goes_on(job, old, 5.0, 6.0)
        assert (counts(bus), job.ends_at) == ((1, 1, 0), 0.25)
        running.finished(job)
        running.waits(job, job.history, "pool")
        running.goes_on(job, job.history, 5.0, 6.0)
        await asyncio.sleep(0)
        assert (counts(bus), job.ends_at) == ((1, 0, 0), 0.25)


async def test_a_query_that_moves_takes_its_slot_again() -> None:
    """A moved query takes its slot again, and may wait again where it continues."""
    async with one_slot() as (bus, job):
        running = bus.dispatcher.active
        running.waits(job, job.history, "pool")
        await until(0.2)
        job.move()
        assert (counts(bus), job.started_at, job.ends_at) == ((2, 0, 0), 0.2, 0.45)
        running.waits(job, job.history, "other pool")
        await until(0.3)
        running.goes_on(job, job.history, 0.3, 0.55)
        assert (running.parked, job.ends_at) == (0, 0.55)


async def test_a_blocked_loop_reads_reports_before_it_ends_queries() -> None:
    """A loop that was blocked does not end waiting queries before it has read their reports."""
    async with one_slot() as (bus, job):
        running = bus.dispatcher.active
        await until(0.1)
        running.waits(job, job.history, "pool")
        await until(0.2)
        block(1.0)
        await asyncio.sleep(0)
        assert not job.ended
        running.goes_on(job, job.history, job.started_at + 1.1, job.ends_at + 1.1)
        assert not job.ended
