"""Stalled workers: the stall detector, job moves in the worker pool, replacement, and the watchdog."""

from __future__ import annotations

import asyncio
from selectors import DefaultSelector
from typing import TYPE_CHECKING, Any

import pytest
from structlog.testing import capture_logs

from fivestage import Orchestrator, Pipeline, Plan, Query
from fivestage.core.job import Job
from fivestage.core.observer import Observer
from fivestage.core.outcome import conclude
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.core.trace_context import TraceContext
from fivestage.dispatch.watchdog import OVERDUE_CPU_S, OVERDUE_S, Watchdog
from fivestage.executors import TICK_S
from fivestage.executors.abandoned_cpu import SpentCpu
from fivestage.executors.job_registry import JobRegistry
from fivestage.executors.stall_detector import IN_STAGE, OUTSIDE, OUTSIDE_LIMIT_S, StallDetector
from fivestage.executors.stall_log import ADVICE
from fivestage.executors.worker import ReplacementReason
from fivestage.executors.worker_death import MAX_DEATHS
from fivestage.executors.worker_pool import WorkerPool
from fivestage.executors.worker_set import MAKE_AGAIN_S, MAX_STALLED, TRIM_AFTER_S
from fivestage.pipeline.step_monitor import StepMonitor
from fivestage.pipeline.thread_pool import Abandoned
from fivestage_schemas import Outcome, PipelineStatus

from .samples import block

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage import StageContext
    from fivestage.executors import OnFinished

PLAN = Plan.of(total_timeout_ms=60_000, stage_timeouts_ms={"intent": 30_000})  # type: ignore[dict-item]
OUTSIDE_LOOKS = round(OUTSIDE_LIMIT_S / TICK_S)


# The detector


def looks(
    detector: StallDetector, number: int, *, answering: bool = False, elapsed_s: float = TICK_S
) -> list[str]:
    """Return the findings of this many checks in a row."""
    found = [detector.check(answering=answering, elapsed_s=elapsed_s) for _ in range(number)]
    return [why for why in found if why is not None]


def test_a_busy_worker_is_not_stalled() -> None:
    """A worker whose steps change is well, also when it is too busy to answer pings."""
    monitor = StepMonitor()
    detector = StallDetector(monitor, 0.03)
    for step in range(1000):
        monitor.cells[0], monitor.cells[1] = 1 + step % 2, step
        assert looks(detector, 1) == []


def test_one_step_for_too_long() -> None:
    """A worker in the same step at every check is stalled once its patience is over."""
    monitor = StepMonitor([7, 1])
    detector = StallDetector(monitor, 3 * TICK_S)
    assert looks(detector, 1 + 2) == []
    assert looks(detector, 2) == [IN_STAGE, IN_STAGE]
    monitor.cells[1] = 2
    assert looks(detector, 1 + 2) == []
    assert looks(detector, 1) == [IN_STAGE]


def test_an_answer_does_not_excuse_a_step() -> None:
    """A ping answered before the step started does not count as a sign of life."""
    detector = StallDetector(StepMonitor([7, 1]), 3 * TICK_S)
    assert looks(detector, 4, answering=True) == [IN_STAGE]


def test_late_checks_do_not_count() -> None:
    """A late check does not count against workers: the process itself had no CPU."""
    detector = StallDetector(StepMonitor([7, 1]), 3 * TICK_S)
    assert looks(detector, 1000, elapsed_s=0.0) == []
    assert looks(detector, 2) == []
    assert looks(detector, 10, elapsed_s=0.0) == []
    assert looks(detector, 1) == [IN_STAGE]


def test_code_outside_of_stages_is_given_longer() -> None:
    """Where no step runs, only an unanswered ping shows a stall, after a longer time."""
    detector = StallDetector(StepMonitor([0, 1]), 3 * TICK_S)
    assert looks(detector, OUTSIDE_LOOKS) == []
    assert looks(detector, 1, answering=True) == []
    assert looks(detector, OUTSIDE_LOOKS - 1) == []
    assert looks(detector, 1) == [OUTSIDE]


def test_more_patience_counts_outside_of_stages_too() -> None:
    """A longer limit than what code outside of stages has is given to both."""
    detector = StallDetector(StepMonitor([0, 1]), 2 * OUTSIDE_LIMIT_S)
    assert looks(detector, 2 * OUTSIDE_LOOKS) == []
    assert looks(detector, 1) == [OUTSIDE]


def test_an_idle_worker_that_answers_is_well() -> None:
    """An idle worker that answers pings is well for ever."""
    assert looks(StallDetector(StepMonitor(), TICK_S), 1000, answering=True) == []


# The worker pool


class FakeWorker:
    """A worker in any state that a test sets."""

    def __init__(self, on_finished: OnFinished) -> None:
        self.registry = JobRegistry(on_finished)
        self.started: list[Job] = []
        self.counted: list[bool] = []
        self.why: str | None = None
        self.lag_s = 0.0
        self.stalled_s = 0.03
        self.ready = True
        self.thread = (1, 1)
        self.replacement: ReplacementReason | None = None
        self.end_reason = ReplacementReason.PROCESS_ENDED
        self.error: str | None = None
        self.is_blocking: Job | None = None
        self.where = "app.py:7 node"
        self.number = 0
        self.ends_seen = 0
        self.gone_after = 1
        self.gone = False

    @property
    def blocking(self) -> tuple[int, Job | None]:
        return (self.is_blocking.number, self.is_blocking) if self.is_blocking else (self.number, None)

    def start(self, job: Job) -> None:
        self.started.append(job)
        self.registry.add(job)

    def cancel(self, job: Job) -> None:
        self.registry.leave(job, 0.0)

    def refresh(self) -> None:
        """See Worker."""

    def check(self, _now: float, *, elapsed_s: float) -> str | None:
        self.counted.append(elapsed_s > 0)
        return self.why

    def needs_replacement(self, _now: float) -> ReplacementReason | None:
        return self.replacement

    def location(self) -> str | None:
        return self.where

    def end(self, _now: float) -> None:
        self.ends_seen += 1
        self.gone = self.ends_seen >= self.gone_after

    def abandoned(self) -> list[Abandoned]:
        return self.registry.abandoned(self.blocking[0], self.thread)

    def ends(self, job: Job) -> None:
        """End a job here."""
        self.registry.done(job, job.history, True)

    def stall(self, blocking_job: Job | None, why: str = IN_STAGE) -> None:
        """Block its loop from now on."""
        self.why, self.is_blocking = why, blocking_job

    def turn(self) -> None:
        """Unblock its loop."""
        self.why = self.is_blocking = None


class Counting(Observer):
    """Counts what happens to workers."""

    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.stalled: list[str] = []
        self.lines: list[str | None] = []

    def executor_replaced(self, reason: str) -> None:
        self.replaced.append(reason)

    def executor_stalled(self, name: str, where: str | None) -> None:
        self.stalled.append(name)
        self.lines.append(where)


class Harness:
    """A pool of fake workers, and its reports."""

    def __init__(self, size: int = 1, spares: int = 1, cpu_clock: Callable[[], float] = lambda: 0.0) -> None:
        self.workers: list[FakeWorker] = []
        """All workers that were started."""
        self.no_room = False
        self.finished: list[Job] = []
        self.counting = Counting()
        self.pool = WorkerPool(
            self._make,
            size=size,
            spares=spares,
            stall_ms=30,
            observer=self.counting,
            cpu_clock=cpu_clock,
        )
        self.pool.launch(self.finished.append)

    def _make(self, on_finished: OnFinished, _on_ready: Callable[[], None]) -> FakeWorker:
        if self.no_room:
            raise OSError(24, "Too many open files")
        self.workers.append(FakeWorker(on_finished))
        return self.workers[-1]

    def submit(self, *, takes_s: float = 30.0) -> Job:
        """Submit a job of 60 s in its first stage, half of which is its known latency."""
        now = asyncio.get_running_loop().time()
        job = Job(Query("q", "text"), PLAN, started_at=now, ends_at=now + 60)
        job.routing.stages = tuple(
            stage._replace(p95_s=takes_s if number == 0 else 0.001)
            for number, stage in enumerate(job.routing.stages)
        )
        self.pool.submit(job)
        job.history.start(RunningStage(PLAN.stages[0], now, 30.0, node="slow"))
        return job

    def check(self) -> bool:
        """Check on time."""
        return self.pool.check(asyncio.get_running_loop().time())

    async def check_for(self, seconds: float) -> None:
        """Check as often as the watchdog does."""
        for _ in range(round(seconds / TICK_S)):
            self.check()
            await asyncio.sleep(TICK_S)


def last_run(job: Job) -> StageRun:
    """Return the last ended stage of a job."""
    return job.history.runs[-1]


async def test_jobs_go_where_the_fewest_are() -> None:
    """Jobs are spread evenly over the wanted workers; spares get none."""
    harness = Harness(3)
    jobs = [harness.submit() for _ in range(9)]
    assert [len(worker.started) for worker in harness.workers] == [3, 3, 3, 0]
    middle = harness.workers[1]
    for job in middle.started[:2]:
        middle.ends(job)
    more = [harness.submit(), harness.submit()]
    assert middle.started[3:] == more
    assert harness.finished == middle.started[:2]
    assert len(jobs) == 9


async def test_a_stalled_worker_gets_no_new_jobs_and_keeps_its_own() -> None:
    """A spare gets new jobs while a worker stalls; when its loop turns again, nothing ran twice."""
    harness = Harness()
    blocking_job, caught = harness.submit(), harness.submit()
    first, spare = harness.workers
    first.stall(blocking_job)
    assert harness.check()
    assert not harness.check()
    new = harness.submit()
    assert (first.started, spare.started) == ([blocking_job, caught], [new])
    assert (blocking_job.is_blocking, caught.is_blocking, harness.counting.stalled) == (True, False, ["slow"])
    first.turn()
    harness.check()
    back = harness.submit()
    assert first.started == [blocking_job, caught, back]
    assert [job.history.attempt for job in (blocking_job, caught)] == [1, 1]
    first.ends(caught)
    assert (harness.finished, harness.counting.replaced, len(harness.workers)) == ([caught], [], 2)


async def test_the_log_line_of_a_blocked_loop() -> None:
    """It has the query with its lane and trace, and never less time than the limit that it names."""
    harness = Harness()
    job = harness.submit()
    job.trace = TraceContext("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
    harness.workers[0].stalled_s = 0.027
    harness.workers[0].stall(job)
    with capture_logs() as logs:
        harness.check()
    assert logs == [
        {
            "event": "event loop blocked",
            "log_level": "warning",
            "reason": IN_STAGE,
            "advice": ADVICE,
            "node": "slow",
            "stage": "intent",
            "query_id": "q",
            "lane": "prod",
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
            "where": "app.py:7 node",
            "blocked_ms": 30,
            "setting": "executor.stall_ms = 30",
            "queries_waiting": 0,
        }
    ]
    assert (harness.counting.stalled, harness.counting.lines) == (["slow"], ["app.py:7 node"])


async def test_a_loop_that_gets_no_cpu() -> None:
    """A loop that waits for events where it could go on is no blocked code, and the log says so."""
    harness = Harness()
    harness.submit()
    worker, code = harness.workers[0], DefaultSelector.select.__code__
    worker.where = f"{code.co_filename}:{code.co_firstlineno + 3} {code.co_name}"
    worker.stall(None, OUTSIDE)
    with capture_logs() as logs:
        harness.check()
    [line] = logs
    assert (line["log_level"], line["reason"]) == ("info", "the loop was ready, but got no CPU")
    assert line["advice"] is None
    assert (harness.counting.stalled, harness.counting.lines) == ([""], [None])


async def test_waiting_jobs_move_when_waiting_would_cost_their_answer() -> None:
    """Waiting jobs move before waiting costs their answer; the blocking job stays; none is abandoned."""
    harness = Harness()
    blocking_job, caught, patient = harness.submit(), harness.submit(), harness.submit(takes_s=1.0)
    first, spare = harness.workers
    first.stall(blocking_job)
    await harness.check_for(29.0)
    assert spare.started == []
    await harness.check_for(2.0)
    assert (spare.started, caught.history.attempt) == ([caught], 2)
    assert list(first.registry.jobs.values()) == [blocking_job, patient]
    assert (harness.pool.abandoned(), harness.finished) == ([], [])
    await harness.check_for(28.5)
    assert spare.started == [caught, patient]


async def test_a_job_in_several_stalled_workers_continues() -> None:
    """A query whose workers are stalled by others several times continues."""
    harness = Harness()
    caught = harness.submit(takes_s=59.99)
    for _ in range(2 * MAX_DEATHS):
        worker = caught.place
        worker.stall(None)
        await harness.check_for(0.5)
        assert caught.place is not worker
        now, attempt = asyncio.get_running_loop().time(), caught.history.attempt
        caught.history.start(RunningStage(PLAN.stages[0], now, 30.0, attempt=attempt))
        worker.turn()
        harness.check()
    assert (harness.finished, caught.history.attempt) == ([], 2 * MAX_DEATHS + 1)


async def test_jobs_in_a_stalled_worker_are_marked() -> None:
    """Jobs in a stalled worker are marked, so that late stages do not count; the blocking job is not."""
    harness = Harness()
    blocking_job, caught = harness.submit(), harness.submit()
    harness.workers[0].stall(blocking_job)
    await asyncio.sleep(5)
    harness.check()
    assert caught.held_at == asyncio.get_running_loop().time()
    assert blocking_job.held_at < 0


async def test_a_waiting_job_that_ends_leaves_no_code_behind() -> None:
    """A waiting job's code ends when the loop turns; the blocking job's counts until it returns."""
    harness = Harness()
    blocking_job, caught = harness.submit(), harness.submit()
    first = harness.workers[0]
    first.stall(blocking_job)
    harness.check()
    harness.pool.cancel(caught)
    assert harness.pool.abandoned() == []
    harness.pool.cancel(blocking_job)
    assert [one.name for one in harness.pool.abandoned()] == ["slow"]


async def test_only_the_blocking_job_of_a_stall_counts_as_abandoned() -> None:
    """Of the jobs that ended before the stall, only the one whose code blocks the loop is abandoned."""
    harness = Harness()
    blocking_job, caught = harness.submit(), harness.submit()
    first = harness.workers[0]
    harness.pool.cancel(blocking_job)
    harness.pool.cancel(caught)
    first.why, first.number = IN_STAGE, blocking_job.number
    harness.check()
    assert [one.thread for one in harness.pool.abandoned()] == [first.thread]


async def test_other_code_that_blocks_a_loop_is_counted() -> None:
    """A background task that blocks the loop is counted by its place, until the loop turns."""
    harness = Harness()
    first = harness.workers[0]
    first.stall(None, OUTSIDE)
    harness.check()
    assert [one.name for one in harness.pool.abandoned()] == ["app.py:7 node"]
    first.turn()
    harness.check()
    assert harness.pool.abandoned() == []


async def test_a_spare_is_replaced_when_the_stall_lasts() -> None:
    """A short stall costs no worker; with all workers stalled one is started at once."""
    harness = Harness()
    harness.workers[0].stall(None)
    await harness.check_for(0.2)
    assert len(harness.workers) == 2
    await harness.check_for(0.1)
    assert len(harness.workers) == 3
    for worker in harness.workers:
        worker.stall(None)
    harness.check()
    assert len(harness.workers) == 4
    job = harness.submit()
    assert harness.workers[3].started == [job]


async def test_workers_that_came_back_are_used_and_then_trimmed() -> None:
    """Surplus workers end one by one when idle, the newest first."""
    harness = Harness()
    for _ in range(3):
        for worker in harness.workers:
            worker.stall(None)
        harness.check()
    made = len(harness.workers)
    for worker in harness.workers:
        worker.turn()
    harness.check()
    busy = harness.submit()
    await asyncio.sleep(made * (TRIM_AFTER_S + 1))
    assert [worker.gone for worker in harness.workers] == [False, False] + [True] * (made - 2)
    assert (harness.workers[0].started, harness.counting.replaced) == ([busy], [])


async def test_a_worker_with_code_that_runs_on_is_not_trimmed() -> None:
    """A worker with abandoned code is kept: it could not end, and the code would not be counted."""
    harness = Harness()
    deaf = harness.submit()
    for worker in harness.workers:
        worker.stall(None)
    harness.check()
    for worker in harness.workers:
        worker.turn()
    harness.pool.cancel(deaf)
    await asyncio.sleep(10 * TRIM_AFTER_S)
    assert [worker.gone for worker in harness.workers] == [False, False, True]


async def test_jobs_do_not_wait_for_a_worker_that_opens_when_another_turns() -> None:
    """Jobs move to a worker whose loop turns again before the one that is opening."""
    harness = Harness()
    first, opening = harness.workers
    opening.ready, harness.no_room = False, True
    caught = harness.submit()
    first.stall(None)
    harness.check()
    waiting = harness.submit()
    await harness.check_for(40.0)
    assert (opening.started, first.started) == ([waiting], [caught])
    first.turn()
    harness.check()
    assert (first.started, opening.registry.jobs) == ([caught, waiting], {})


async def test_the_number_of_workers_is_bounded() -> None:
    """With the maximum of stalled workers, jobs wait in the existing ones."""
    harness = Harness()
    for _ in range(3 * MAX_STALLED):
        for worker in harness.workers:
            worker.stall(None)
        harness.check()
    assert len(harness.workers) == MAX_STALLED + 1
    job = harness.submit()
    harness.check()
    assert (job.history.attempt, len(job.place.started)) == (1, 1)


async def test_a_worker_that_cannot_be_made() -> None:
    """A worker that cannot be started, for lack of descriptors say, is retried later; the others go on."""
    harness = Harness(spares=0)
    harness.no_room = True
    harness.workers[0].stall(None)
    await harness.check_for(MAKE_AGAIN_S / 2)
    waiting = harness.submit()
    harness.no_room = False
    harness.check()
    assert len(harness.workers) == 1
    await harness.check_for(MAKE_AGAIN_S)
    assert (len(harness.workers), harness.workers[0].started) == (2, [waiting])


async def test_jobs_wait_in_a_worker_that_gets_ready() -> None:
    """Jobs wait in a starting worker where no other is left; a ready one is preferred."""
    harness = Harness()
    harness.workers[1].ready = False
    harness.workers[0].stall(None)
    harness.check()
    first = harness.submit()
    assert harness.workers[1].started == [first]
    harness.workers[1].stall(None)
    harness.check()
    second = harness.submit()
    assert harness.workers[2].started == [second]


async def test_a_worker_that_died() -> None:
    """The job whose code ended a worker fails at once; the others move without a mark."""
    harness = Harness()
    blocking_job, other = harness.submit(), harness.submit()
    dead = harness.workers[0]
    dead.is_blocking, dead.gone = blocking_job, True
    harness.check()
    assert (harness.finished, harness.workers[1].started) == ([blocking_job], [other])
    assert (last_run(blocking_job).outcome, last_run(blocking_job).error_type) == (
        Outcome.ERROR,
        "worker_died",
    )
    assert (other.deaths, harness.counting.replaced) == (0, ["its process has ended"])
    assert len(harness.workers) == 3


async def test_a_worker_whose_resources_did_not_open() -> None:
    """The author's error is in the log line; the counted reason has no text that authors choose."""
    harness = Harness()
    dead = harness.workers[0]
    dead.end_reason, dead.error, dead.gone = ReplacementReason.NOT_OPEN, "ConnectionError: no route", True
    with capture_logs() as lines:
        harness.check()
    assert harness.counting.replaced == ["its resources did not open"]
    [line] = [line for line in lines if line["event"] == "worker died"]
    assert (line["reason"], line["error"]) == ("its resources did not open", "ConnectionError: no route")


async def test_a_query_present_at_every_worker_death() -> None:
    """A query present at several unexplained worker deaths is the likely cause and ends as an error."""
    harness = Harness()
    job = harness.submit()
    for _ in range(MAX_DEATHS):
        assert harness.finished == []
        job.place.gone = True
        harness.check()
        harness.workers = [worker for worker in harness.workers if not worker.gone]
    assert harness.finished == [job]
    assert last_run(job).error_type == "worker_died"


async def test_a_worker_that_dies_after_it_stalled() -> None:
    """When a stalled worker dies, the blocking job ends as an error."""
    harness = Harness()
    blocking_job = harness.submit()
    old = harness.workers[0]
    old.stall(blocking_job)
    harness.check()
    await asyncio.sleep(1)
    assert (harness.finished, old.ends_seen) == ([], 0)
    old.gone = True
    harness.check()
    assert (harness.finished, last_run(blocking_job).error_type) == ([blocking_job], "worker_died")


async def test_a_worker_that_needs_replacement() -> None:
    """A worker that needs replacement gets no more jobs and ends after its last one."""
    harness = Harness()
    job = harness.submit()
    old = harness.workers[0]
    old.replacement = ReplacementReason.RUNS_ON
    harness.check()
    later = harness.submit()
    assert (old.started, harness.workers[1].started, len(harness.counting.replaced)) == ([job], [later], 1)
    await asyncio.sleep(1)
    assert (old.ends_seen, job.history.attempt) == (0, 1)
    old.ends(job)
    await asyncio.sleep(1)
    assert (harness.finished, old.ends_seen, len(harness.workers)) == ([job], 1, 3)


async def test_a_stalled_worker_that_needs_replacement() -> None:
    """All jobs but the blocking one leave it at once; it is terminated repeatedly until it is gone."""
    harness = Harness()
    blocking_job, caught = harness.submit(), harness.submit()
    old = harness.workers[0]
    old.stall(blocking_job)
    harness.check()
    old.replacement, old.gone_after = ReplacementReason.RUNS_ON, 5
    harness.check()
    assert (list(old.registry.jobs.values()), harness.workers[1].started) == ([blocking_job], [caught])
    harness.pool.cancel(blocking_job)
    await asyncio.sleep(10)
    assert (old.ends_seen, harness.pool.abandoned()) == (5, [])
    assert repr(harness.pool).endswith("retired=[]>")


async def test_a_retired_worker_that_stalls_or_dies() -> None:
    """Other jobs of a retired worker move; the blocking one continues, or ends with the worker."""
    harness = Harness()
    blocking_job, neighbour = harness.submit(), harness.submit()
    old = harness.workers[0]
    old.replacement = ReplacementReason.RUNS_ON
    harness.check()
    await asyncio.sleep(1)
    assert harness.workers[1].started == []
    old.stall(blocking_job)
    await asyncio.sleep(2 * TICK_S)
    assert (harness.workers[1].started, harness.finished) == ([neighbour], [])
    old.gone = True
    await asyncio.sleep(2 * TICK_S)
    assert (harness.finished, last_run(blocking_job).error_type) == ([blocking_job], "worker_died")


async def test_workers_learn_whether_a_check_was_on_time() -> None:
    """A worker learns whether a check was on time."""
    harness = Harness()
    for pause_s in (1.0, TICK_S, TICK_S, 5 * TICK_S, TICK_S):
        await asyncio.sleep(pause_s)
        harness.check()
    assert harness.workers[0].counted == [False, True, True, False, True]


async def test_checks_delayed_by_this_process_count() -> None:
    """A check delayed by threads of this process counts: the time shows that something blocks."""
    cpu_s = 0.0
    harness = Harness(cpu_clock=lambda: cpu_s)
    for _ in range(3):
        await asyncio.sleep(10 * TICK_S)
        cpu_s += 6 * TICK_S
        harness.check()
    assert harness.workers[0].counted == [True, True, True]


async def test_workers_that_end_with_the_pool_are_not_replaced() -> None:
    """A check after the shutdown starts no worker."""
    harness = Harness()
    job = harness.submit()
    await harness.pool.shut_down(1.0)
    assert (job.ended, [worker.gone for worker in harness.workers]) == (True, [True, True])
    harness.check()
    assert (len(harness.workers), harness.counting.replaced) == (2, [])


async def test_a_moved_job_whose_time_is_up_runs_nothing() -> None:
    """A job moved at its deadline runs no user code and is a timeout of the pipeline."""
    calls: list[str] = []
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        calls.append("intent")
        return {}

    harness = Harness()
    job = harness.submit()
    await asyncio.sleep(60)
    harness.workers[0].stalled_s = 60
    harness.workers[0].stall(None)
    harness.check()
    assert harness.workers[1].started == [job]
    await Orchestrator(app, plan=PLAN).run(job, job.history)
    now = asyncio.get_running_loop().time()
    conclusion = conclude(job.history, PLAN, started_at=job.started_at, ends_at=job.ends_at, now=now)
    assert (calls, conclusion.status) == ([], PipelineStatus.TIMEOUT)
    assert [str(note.scope) for note in conclusion.timeouts] == ["pipeline"]


# The watchdog


class Beat:
    """Dispatcher, executor and learned state of a watchdog, in any state that a test sets."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.left: list[Abandoned] = []
        self.checks = 0
        self.lag_s = 0.0
        self.stuck: list[frozenset[str]] = []
        self.disturbed_at: float | None = None
        self.holds_up = False
        self.cpu_s = 0.0
        self.fails = False

    def check(self, _now: float) -> bool:
        if self.fails:
            raise OSError
        self.checks += 1
        return self.holds_up

    def abandoned(self) -> list[Abandoned]:
        return self.left

    def tick(self, _now: float, stuck: frozenset[str]) -> None:
        self.stuck.append(stuck)


def watchdog(beat: Any, spent: SpentCpu | None = None) -> Watchdog:
    """Build a watchdog with these parts and a limit of two overdue calls per node."""
    return Watchdog(
        executor=beat,
        learned=beat,
        max_overdue=2,
        cpu_clock=lambda: beat.cpu_s,
        spent=spent,
    )


def begin(rounds: Watchdog, beat: Any) -> None:
    """Start the first query."""
    rounds.watch(beat)


async def test_the_watchdog_stops_when_nothing_runs() -> None:
    """The watchdog runs while queries or abandoned code run, and starts again with the next query."""
    beat = Beat()
    rounds = watchdog(beat)
    assert repr(rounds) == "<Watchdog resting>"
    for _ in range(2):
        before = beat.checks
        beat.left = [Abandoned("bad", 0.0)]
        begin(rounds, beat)
        await asyncio.sleep(100.5 * TICK_S)
        assert beat.checks - before == 100
        beat.left = []
        await asyncio.sleep(100 * TICK_S)
        assert beat.checks - before == 101


async def test_code_that_was_cancelled_just_now_is_not_overdue() -> None:
    """A node is suspended when two of its calls are overdue for a second, not at their cancellation."""
    beat = Beat()
    rounds = watchdog(beat)
    now = asyncio.get_running_loop().time()
    beat.left = [Abandoned("bad", now), Abandoned("bad", now), Abandoned("once", now)]
    begin(rounds, beat)
    await asyncio.sleep(OVERDUE_S)
    assert set(beat.stuck) == {frozenset()}
    await asyncio.sleep(2 * TICK_S)
    assert beat.stuck[-1] == {"bad"}
    beat.left = beat.left[1:]
    await asyncio.sleep(TICK_S)
    assert beat.stuck[-1] == frozenset()


@pytest.mark.parametrize(("calls", "share"), [(1, 1.0), (1, 0.2), (4, 0.1)])
async def test_calls_that_burn_cpu_count_by_what_they_use(calls: int, share: float) -> None:
    """Each 15 ms of CPU after the end of its query counts as an overdue call, per call or in total."""
    beat, clock = Beat(), asyncio.get_running_loop().time
    began = clock()
    rounds = watchdog(beat, SpentCpu(lambda _thread: (clock() - began) * share))
    beat.left = [Abandoned("bad", began, (1, number)) for number in range(calls)]
    begin(rounds, beat)
    await asyncio.sleep(2 * OVERDUE_CPU_S / (calls * share))
    assert set(beat.stuck) <= {frozenset()}
    await asyncio.sleep(5 * TICK_S)
    assert beat.stuck[-1] == {"bad"}


@pytest.mark.parametrize(
    ("late_s", "cpu_share", "starved"), [(0.1, 0.0, True), (0.1, 1.0, False), (0.02, 0.0, False)]
)
async def test_a_round_delayed_by_other_processes(late_s: float, cpu_share: float, *, starved: bool) -> None:
    """Delay by other processes does not count as a stall; delay by this process may."""
    beat = Beat()
    beat.left = [Abandoned("bad", 0.0)]
    rounds = watchdog(beat)
    begin(rounds, beat)
    await asyncio.sleep(TICK_S / 2)
    block(late_s)
    beat.cpu_s += cpu_share * late_s
    await asyncio.sleep(TICK_S / 4)
    assert (beat.disturbed_at is not None) is starved


async def test_a_failed_round_does_not_end_the_watchdog() -> None:
    """A failed round does not end the watchdog."""
    beat = Beat()
    beat.left = [Abandoned("bad", 0.0)]
    rounds = watchdog(beat)
    asyncio.get_running_loop().set_exception_handler(lambda *_: None)
    beat.fails = True
    begin(rounds, beat)
    await asyncio.sleep(2.5 * TICK_S)
    beat.fails = False
    await asyncio.sleep(3 * TICK_S)
    assert beat.checks == 3


async def test_code_that_blocks_others_is_a_disturbance() -> None:
    """The learned state gets the time of the disturbance."""
    beat = Beat()
    beat.left, beat.holds_up = [Abandoned("bad", 0.0)], True
    rounds = watchdog(beat)
    begin(rounds, beat)
    await asyncio.sleep(TICK_S)
    assert beat.disturbed_at == asyncio.get_running_loop().time()
