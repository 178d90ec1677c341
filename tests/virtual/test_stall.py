"""Telling what is stalled, sharing jobs out around it, and what comes after: detector, fleet and patrol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan, Query
from fivestage.core.job import Job
from fivestage.core.observer import Observer
from fivestage.core.outcome import conclude
from fivestage.core.stage_history import RunningStage, StageRun
from fivestage.dispatch.watchdog import OVERDUE_CPU_S, OVERDUE_S, Watchdog
from fivestage.executors import TICK_S
from fivestage.executors.abandoned_cpu import SpentCpu
from fivestage.executors.job_registry import JobRegistry
from fivestage.executors.stall_detector import IN_STAGE, OUTSIDE, OUTSIDE_LIMIT_S, StallDetector
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
    """What so many looks in a row find."""
    found = [detector.check(answering=answering, elapsed_s=elapsed_s) for _ in range(number)]
    return [why for why in found if why is not None]


def test_a_busy_worker_is_not_held_up() -> None:
    """A worker that goes from step to step is well, also when it never has the time to answer."""
    monitor = StepMonitor()
    detector = StallDetector(monitor, 0.03)
    for step in range(1000):
        monitor.cells[0], monitor.cells[1] = 1 + step % 2, step
        assert looks(detector, 1) == []


def test_one_step_for_too_long() -> None:
    """The same step look after look is a worker held up, once its patience is over, and from then on."""
    monitor = StepMonitor([7, 1])
    detector = StallDetector(monitor, 3 * TICK_S)
    assert looks(detector, 1 + 2) == []
    assert looks(detector, 2) == [IN_STAGE, IN_STAGE]
    monitor.cells[1] = 2
    assert looks(detector, 1 + 2) == []
    assert looks(detector, 1) == [IN_STAGE]


def test_an_answer_does_not_excuse_a_step() -> None:
    """A ping answered before the step began says nothing about it."""
    detector = StallDetector(StepMonitor([7, 1]), 3 * TICK_S)
    assert looks(detector, 4, answering=True) == [IN_STAGE]


def test_looks_that_come_late_do_not_count() -> None:
    """A process that had no CPU for a while does not hold that against its workers."""
    detector = StallDetector(StepMonitor([7, 1]), 3 * TICK_S)
    assert looks(detector, 1000, elapsed_s=0.0) == []
    assert looks(detector, 2) == []
    assert looks(detector, 10, elapsed_s=0.0) == []
    assert looks(detector, 1) == [IN_STAGE]


def test_code_outside_of_stages_is_given_longer() -> None:
    """Where no step is under way only a ping that stays unanswered tells, and that after a longer time."""
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
    """However long nothing changes."""
    assert looks(StallDetector(StepMonitor(), TICK_S), 1000, answering=True) == []


# The fleet


class FakeWorker:
    """A worker in whatever state a test puts it."""

    def __init__(self, on_finished: OnFinished) -> None:
        self.registry = JobRegistry(on_finished)
        self.started: list[Job] = []
        self.counted: list[bool] = []
        self.why: str | None = None
        self.lag_s = 0.0
        self.stalled_s = 0.03
        self.ready = True
        self.thread = (1, 1)
        self.replacement: str | None = None
        self.is_blocking: Job | None = None
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

    def check(self, _now: float, *, elapsed_s: float) -> str | None:
        self.counted.append(elapsed_s > 0)
        return self.why

    def needs_replacement(self, _now: float) -> str | None:
        return self.replacement

    def location(self) -> str | None:
        return "app.py:7 node"

    def end(self, _now: float) -> None:
        self.ends_seen += 1
        self.gone = self.ends_seen >= self.gone_after

    def abandoned(self) -> list[Abandoned]:
        return self.registry.abandoned(self.blocking[0], self.thread)

    def ends(self, job: Job) -> None:
        """A job comes to its end here."""
        self.registry.done(job, job.history, True)

    def stall(self, blocking_job: Job | None, why: str = IN_STAGE) -> None:
        """It does not turn from now on."""
        self.why, self.is_blocking = why, blocking_job

    def turn(self) -> None:
        """It turns again."""
        self.why = self.is_blocking = None


class Counting(Observer):
    """Counts what happens to workers."""

    def __init__(self) -> None:
        self.replaced: list[str] = []
        self.stalled: list[str] = []

    def executor_replaced(self, reason: str) -> None:
        self.replaced.append(reason)

    def executor_stalled(self, name: str) -> None:
        self.stalled.append(name)


class Yard:
    """A fleet of fake workers, and what it reported."""

    def __init__(self, size: int = 1, spares: int = 1, cpu_clock: Callable[[], float] = lambda: 0.0) -> None:
        self.workers: list[FakeWorker] = []
        """All that were ever made."""
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
        """A job of 60 s in its first stage, of which half is known to be needed."""
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
        """A look that is in time."""
        return self.pool.check(asyncio.get_running_loop().time())

    async def check_for(self, seconds: float) -> None:
        """Looks as the patrol makes them."""
        for _ in range(round(seconds / TICK_S)):
            self.check()
            await asyncio.sleep(TICK_S)


def last_run(job: Job) -> StageRun:
    """The last stage of a job's trail that has ended."""
    return job.history.runs[-1]


async def test_jobs_go_where_the_fewest_are() -> None:
    """Jobs are shared evenly among as many workers as wanted; spares get none."""
    yard = Yard(3)
    jobs = [yard.submit() for _ in range(9)]
    assert [len(worker.started) for worker in yard.workers] == [3, 3, 3, 0]
    middle = yard.workers[1]
    for job in middle.started[:2]:
        middle.ends(job)
    more = [yard.submit(), yard.submit()]
    assert middle.started[3:] == more
    assert yard.finished == middle.started[:2]
    assert len(jobs) == 9


async def test_a_stalled_worker_gets_no_new_jobs_and_keeps_its_own() -> None:
    """A spare gets them; when the loop turns again, everything is as it was, and nothing ran twice."""
    yard = Yard()
    blocking_job, caught = yard.submit(), yard.submit()
    first, spare = yard.workers
    first.stall(blocking_job)
    assert yard.check()
    assert not yard.check()
    new = yard.submit()
    assert (first.started, spare.started) == ([blocking_job, caught], [new])
    assert (blocking_job.is_blocking, caught.is_blocking, yard.counting.stalled) == (True, False, ["slow"])
    first.turn()
    yard.check()
    back = yard.submit()
    assert first.started == [blocking_job, caught, back]
    assert [job.history.attempt for job in (blocking_job, caught)] == [1, 1]
    first.ends(caught)
    assert (yard.finished, yard.counting.replaced, len(yard.workers)) == ([caught], [], 2)


async def test_caught_jobs_move_when_waiting_would_cost_their_answer() -> None:
    """Not before; the job whose code it is stays; those that moved are nobody's abandoned code."""
    yard = Yard()
    blocking_job, caught, patient = yard.submit(), yard.submit(), yard.submit(takes_s=1.0)
    first, spare = yard.workers
    first.stall(blocking_job)
    await yard.check_for(29.0)
    assert spare.started == []
    await yard.check_for(2.0)
    assert (spare.started, caught.history.attempt) == ([caught], 2)
    assert list(first.registry.jobs.values()) == [blocking_job, patient]
    assert (yard.pool.abandoned(), yard.finished) == ([], [])
    await yard.check_for(28.5)
    assert spare.started == [caught, patient]


async def test_jobs_that_are_caught_again_and_again_are_not_at_fault() -> None:
    """However often others stall the workers that a query is in: it goes on."""
    yard = Yard()
    caught = yard.submit(takes_s=59.99)
    for _ in range(2 * MAX_DEATHS):
        worker = caught.place
        worker.stall(None)
        await yard.check_for(0.5)
        assert caught.place is not worker
        now, attempt = asyncio.get_running_loop().time(), caught.history.attempt
        caught.history.start(RunningStage(PLAN.stages[0], now, 30.0, attempt=attempt))
        worker.turn()
        yard.check()
    assert (yard.finished, caught.history.attempt) == ([], 2 * MAX_DEATHS + 1)


async def test_caught_jobs_are_marked() -> None:
    """So that what they do not do in time is not held against them; the job whose code it is is not."""
    yard = Yard()
    blocking_job, caught = yard.submit(), yard.submit()
    yard.workers[0].stall(blocking_job)
    await asyncio.sleep(5)
    yard.check()
    assert caught.held_at == asyncio.get_running_loop().time()
    assert blocking_job.held_at < 0


async def test_a_caught_job_that_ends_leaves_no_code_behind() -> None:
    """Its code runs when the loop turns, and ends then; that of the blocking job counts until it returns."""
    yard = Yard()
    blocking_job, caught = yard.submit(), yard.submit()
    first = yard.workers[0]
    first.stall(blocking_job)
    yard.check()
    yard.pool.cancel(caught)
    assert yard.pool.abandoned() == []
    yard.pool.cancel(blocking_job)
    assert [one.name for one in yard.pool.abandoned()] == ["slow"]


async def test_jobs_that_ended_before_the_stall_was_seen_are_not_to_blame() -> None:
    """Of those that have left, only the one whose code has control runs on."""
    yard = Yard()
    blocking_job, caught = yard.submit(), yard.submit()
    first = yard.workers[0]
    yard.pool.cancel(blocking_job)
    yard.pool.cancel(caught)
    first.why, first.number = IN_STAGE, blocking_job.number
    yard.check()
    assert [one.thread for one in yard.pool.abandoned()] == [first.thread]


async def test_other_code_that_blocks_a_loop_is_counted() -> None:
    """A background task, by the place where it is, as long as the loop does not turn."""
    yard = Yard()
    first = yard.workers[0]
    first.stall(None, OUTSIDE)
    yard.check()
    assert [one.name for one in yard.pool.abandoned()] == ["app.py:7 node"]
    first.turn()
    yard.check()
    assert yard.pool.abandoned() == []


async def test_a_spare_is_replaced_when_the_stall_lasts() -> None:
    """A stall of milliseconds costs no worker; with all of them stalled one is made at once."""
    yard = Yard()
    yard.workers[0].stall(None)
    await yard.check_for(0.2)
    assert len(yard.workers) == 2
    await yard.check_for(0.1)
    assert len(yard.workers) == 3
    for worker in yard.workers:
        worker.stall(None)
    yard.check()
    assert len(yard.workers) == 4
    job = yard.submit()
    assert yard.workers[3].started == [job]


async def test_workers_that_came_back_are_used_and_then_trimmed() -> None:
    """More than are wanted end one by one when they have nothing to do, the last ones first."""
    yard = Yard()
    for _ in range(3):
        for worker in yard.workers:
            worker.stall(None)
        yard.check()
    made = len(yard.workers)
    for worker in yard.workers:
        worker.turn()
    yard.check()
    busy = yard.submit()
    await asyncio.sleep(made * (TRIM_AFTER_S + 1))
    assert [worker.gone for worker in yard.workers] == [False, False] + [True] * (made - 2)
    assert (yard.workers[0].started, yard.counting.replaced) == ([busy], [])


async def test_a_worker_with_code_that_runs_on_is_not_trimmed() -> None:
    """It could not end, and what runs on in it would be counted no more."""
    yard = Yard()
    deaf = yard.submit()
    for worker in yard.workers:
        worker.stall(None)
    yard.check()
    for worker in yard.workers:
        worker.turn()
    yard.pool.cancel(deaf)
    await asyncio.sleep(10 * TRIM_AFTER_S)
    assert [worker.gone for worker in yard.workers] == [False, False, True]


async def test_jobs_do_not_wait_for_a_worker_that_opens_when_another_turns() -> None:
    """They move to the one that has turned again."""
    yard = Yard()
    first, opening = yard.workers
    opening.ready, yard.no_room = False, True
    caught = yard.submit()
    first.stall(None)
    yard.check()
    waiting = yard.submit()
    await yard.check_for(40.0)
    assert (opening.started, first.started) == ([waiting], [caught])
    first.turn()
    yard.check()
    assert (first.started, opening.registry.jobs) == ([caught, waiting], {})


async def test_there_is_an_end_to_workers() -> None:
    """With too many stalled ones jobs wait in those there are."""
    yard = Yard()
    for _ in range(3 * MAX_STALLED):
        for worker in yard.workers:
            worker.stall(None)
        yard.check()
    assert len(yard.workers) == MAX_STALLED + 1
    job = yard.submit()
    yard.check()
    assert (job.history.attempt, len(job.place.started)) == (1, 1)


async def test_a_worker_that_cannot_be_made() -> None:
    """There are no descriptors, say: the others go on, and it is tried again after a while."""
    yard = Yard(spares=0)
    yard.no_room = True
    yard.workers[0].stall(None)
    await yard.check_for(MAKE_AGAIN_S / 2)
    waiting = yard.submit()
    yard.no_room = False
    yard.check()
    assert len(yard.workers) == 1
    await yard.check_for(MAKE_AGAIN_S)
    assert (len(yard.workers), yard.workers[0].started) == (2, [waiting])


async def test_jobs_wait_in_a_worker_that_gets_ready() -> None:
    """Where no other is left; a ready one is preferred."""
    yard = Yard()
    yard.workers[1].ready = False
    yard.workers[0].stall(None)
    yard.check()
    first = yard.submit()
    assert yard.workers[1].started == [first]
    yard.workers[1].stall(None)
    yard.check()
    second = yard.submit()
    assert yard.workers[2].started == [second]


async def test_a_worker_that_died() -> None:
    """The job whose code ended a worker ends as an error, at once; the others move, and are not at fault."""
    yard = Yard()
    blocking_job, other = yard.submit(), yard.submit()
    dead = yard.workers[0]
    dead.why, dead.is_blocking, dead.gone = "it has ended", blocking_job, True
    yard.check()
    assert (yard.finished, yard.workers[1].started) == ([blocking_job], [other])
    assert (last_run(blocking_job).outcome, last_run(blocking_job).error_type) == (
        Outcome.ERROR,
        "worker_died",
    )
    assert (other.deaths, yard.counting.replaced) == (0, ["it has ended"])
    assert len(yard.workers) == 3


async def test_a_query_that_is_there_whenever_a_worker_dies() -> None:
    """It is the likely cause after some deaths of an unknown one, and ends as an error."""
    yard = Yard()
    job = yard.submit()
    for _ in range(MAX_DEATHS):
        assert yard.finished == []
        job.place.why = "it has ended"
        job.place.gone = True
        yard.check()
        yard.workers = [worker for worker in yard.workers if not worker.gone]
    assert yard.finished == [job]
    assert last_run(job).error_type == "worker_died"


async def test_a_worker_that_dies_after_it_stalled() -> None:
    """The job whose code has control ends as an error then."""
    yard = Yard()
    blocking_job = yard.submit()
    old = yard.workers[0]
    old.stall(blocking_job)
    yard.check()
    await asyncio.sleep(1)
    assert (yard.finished, old.ends_seen) == ([], 0)
    old.gone = True
    yard.check()
    assert (yard.finished, last_run(blocking_job).error_type) == ([blocking_job], "worker_died")


async def test_a_worker_that_needs_replacement() -> None:
    """It gets no more jobs and keeps those it has; it is ended when the last of them has."""
    yard = Yard()
    job = yard.submit()
    old = yard.workers[0]
    old.replacement = "code of ended queries runs on"
    yard.check()
    later = yard.submit()
    assert (old.started, yard.workers[1].started, len(yard.counting.replaced)) == ([job], [later], 1)
    await asyncio.sleep(1)
    assert (old.ends_seen, job.history.attempt) == (0, 1)
    old.ends(job)
    await asyncio.sleep(1)
    assert (yard.finished, old.ends_seen, len(yard.workers)) == ([job], 1, 3)


async def test_a_stalled_worker_that_needs_replacement() -> None:
    """All its jobs but the blocking one move at once; it is ended again and again until it is gone."""
    yard = Yard()
    blocking_job, caught = yard.submit(), yard.submit()
    old = yard.workers[0]
    old.stall(blocking_job)
    yard.check()
    old.replacement, old.gone_after = "code of ended queries runs on", 5
    yard.check()
    assert (list(old.registry.jobs.values()), yard.workers[1].started) == ([blocking_job], [caught])
    yard.pool.cancel(blocking_job)
    await asyncio.sleep(10)
    assert (old.ends_seen, yard.pool.abandoned()) == (5, [])
    assert repr(yard.pool).endswith("retired=[]>")


async def test_a_retired_worker_that_stalls_or_dies() -> None:
    """Its other jobs go on elsewhere; the blocking one keeps its chance, or ends with the worker."""
    yard = Yard()
    blocking_job, neighbour = yard.submit(), yard.submit()
    old = yard.workers[0]
    old.replacement = "code of ended queries runs on"
    yard.check()
    await asyncio.sleep(1)
    assert yard.workers[1].started == []
    old.stall(blocking_job)
    await asyncio.sleep(2 * TICK_S)
    assert (yard.workers[1].started, yard.finished) == ([neighbour], [])
    old.gone = True
    await asyncio.sleep(2 * TICK_S)
    assert (yard.finished, last_run(blocking_job).error_type) == ([blocking_job], "worker_died")


async def test_only_looks_in_time_count() -> None:
    """A worker learns whether a look came when it was due."""
    yard = Yard()
    for pause_s in (1.0, TICK_S, TICK_S, 5 * TICK_S, TICK_S):
        await asyncio.sleep(pause_s)
        yard.check()
    assert yard.workers[0].counted == [False, True, True, False, True]


async def test_looks_that_threads_of_the_process_keep_from_coming_count() -> None:
    """Such a look is late although the process had the CPU: the time says that something blocks."""
    cpu_s = 0.0
    yard = Yard(cpu_clock=lambda: cpu_s)
    for _ in range(3):
        await asyncio.sleep(10 * TICK_S)
        cpu_s += 6 * TICK_S
        yard.check()
    assert yard.workers[0].counted == [True, True, True]


async def test_workers_that_end_with_the_fleet_are_not_replaced() -> None:
    """A look that comes after the end makes no new worker."""
    yard = Yard()
    job = yard.submit()
    await yard.pool.shut_down(1.0)
    assert (job.ended, [worker.gone for worker in yard.workers]) == (True, [True, True])
    yard.workers[0].why = "it has ended"
    yard.check()
    assert (len(yard.workers), yard.counting.replaced) == (2, [])


async def test_a_moved_job_whose_time_is_up_runs_nothing() -> None:
    """One that starts again at its deadline calls no user code, and is a timeout of the pipeline."""
    calls: list[str] = []
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        calls.append("intent")
        return {}

    yard = Yard()
    job = yard.submit()
    await asyncio.sleep(60)
    yard.workers[0].stalled_s = 60
    yard.workers[0].stall(None)
    yard.check()
    assert yard.workers[1].started == [job]
    await Orchestrator(app, plan=PLAN).run(job, job.history)
    now = asyncio.get_running_loop().time()
    conclusion = conclude(job.history, PLAN, started_at=job.started_at, ends_at=job.ends_at, now=now)
    assert (calls, conclusion.status) == ([], PipelineStatus.TIMEOUT)
    assert [str(note.scope) for note in conclusion.timeouts] == ["pipeline"]


# The patrol


class Beat:
    """Dispatcher, executor and policies of a patrol in one, in whatever state a test puts them."""

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
    """A patrol of these parts that takes two calls of a node for too many."""
    return Watchdog(
        executor=beat,
        learned=beat,
        max_overdue=2,
        cpu_clock=lambda: beat.cpu_s,
        spent=spent,
    )


def begin(rounds: Watchdog, beat: Any) -> None:
    """The first query starts."""
    rounds.watch(beat)


async def test_the_patrol_rests_when_there_is_nothing_to_see() -> None:
    """It makes rounds while queries run, or code runs on, and starts again with the next query."""
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
    """A node gets no more calls when two of its own have run on for a second, and not before."""
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
    """Each 15 ms of CPU after their ends counts as an overdue call, by one of them or by all together."""
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
async def test_a_round_that_is_late_for_want_of_a_cpu(
    late_s: float, cpu_share: float, *, starved: bool
) -> None:
    """Time that the machine spent on others is nobody's fault; time that this process spent may be."""
    beat = Beat()
    beat.left = [Abandoned("bad", 0.0)]
    rounds = watchdog(beat)
    begin(rounds, beat)
    await asyncio.sleep(TICK_S / 2)
    block(late_s)
    beat.cpu_s += cpu_share * late_s
    await asyncio.sleep(TICK_S / 4)
    assert (beat.disturbed_at is not None) is starved


async def test_the_patrol_survives_a_round_that_fails() -> None:
    """The next one comes all the same."""
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
    """The policies are told when."""
    beat = Beat()
    beat.left, beat.holds_up = [Abandoned("bad", 0.0)], True
    rounds = watchdog(beat)
    begin(rounds, beat)
    await asyncio.sleep(TICK_S)
    assert beat.disturbed_at == asyncio.get_running_loop().time()
