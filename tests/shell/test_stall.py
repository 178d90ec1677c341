"""Telling what is held up, replacing it, and looking after what is left of it: detector, fleet and patrol."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from fivestage import Orchestrator, Pipeline, Plan, Query
from fivestage.bounded import StepMonitor
from fivestage.core.events import Observer
from fivestage.core.job import Job
from fivestage.core.outcome import conclude
from fivestage.core.trail import RunningStage, StageRun
from fivestage.executors import TICK_S
from fivestage.executors.fleet import MAX_ATTEMPTS, Fleet
from fivestage.executors.roster import Roster
from fivestage.executors.stall import OUTSIDE_PATIENCE_S, StallDetector
from fivestage.patrol import SETTLE_S, Patrol
from fivestage.threads import Abandoned
from fivestage_schemas import Outcome, PipelineStatus

from .samples import block

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage import StageContext
    from fivestage.executors import OnFinished

PLAN = Plan.of(total_timeout_ms=60_000)
IN_STAGE = "a stage did not give control back"
OUTSIDE = "code outside of any stage did not give control back"
OUTSIDE_LOOKS = round(OUTSIDE_PATIENCE_S / TICK_S)


# The detector


def looks(detector: StallDetector, number: int, *, answering: bool = False, count: bool = True) -> list[str]:
    """What so many looks in a row find."""
    found = [detector.look(answering=answering, count=count) for _ in range(number)]
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
    assert looks(detector, 1000, count=False) == []
    assert looks(detector, 2) == []
    assert looks(detector, 10, count=False) == []
    assert looks(detector, 1) == [IN_STAGE]


def test_code_outside_of_stages_is_given_longer() -> None:
    """Where no step is under way only a ping that stays unanswered tells, and that after a longer time."""
    detector = StallDetector(StepMonitor(), 3 * TICK_S)
    assert looks(detector, OUTSIDE_LOOKS - 1) == []
    assert looks(detector, 1, answering=True) == []
    assert looks(detector, OUTSIDE_LOOKS - 1) == []
    assert looks(detector, 1) == [OUTSIDE]


def test_more_patience_counts_outside_of_stages_too() -> None:
    """Patience beyond what code outside of stages has is given to both."""
    detector = StallDetector(StepMonitor(), 2 * OUTSIDE_PATIENCE_S)
    assert looks(detector, 2 * OUTSIDE_LOOKS - 1) == []
    assert looks(detector, 1) == [OUTSIDE]


def test_an_idle_worker_that_answers_is_well() -> None:
    """However long nothing changes."""
    assert looks(StallDetector(StepMonitor(), TICK_S), 1000, answering=True) == []


# The fleet


class FakeWorker:
    """A worker in whatever state a test puts it."""

    def __init__(self, on_finished: OnFinished) -> None:
        self.roster = Roster(on_finished)
        self.started: list[Job] = []
        self.counted: list[bool] = []
        self.why: str | None = None
        self.lag_s = 0.0
        self.tired = False
        self.culprit: Job | None = None
        self.put_downs = 0
        self.gone_after = 1
        self.gone = False

    def start(self, job: Job) -> None:
        self.started.append(job)
        self.roster.place(job)

    def cancel(self, job: Job) -> None:
        self.roster.leave(job, 0.0)

    def look(self, _now: float, *, count: bool) -> str | None:
        self.counted.append(count)
        return self.why

    def put_down(self, _now: float) -> None:
        self.put_downs += 1
        self.gone = self.put_downs >= self.gone_after

    def abandoned(self) -> list[Abandoned]:
        return list(self.roster.left.values())

    def ends(self, job: Job) -> None:
        """A job comes to its end here."""
        self.roster.done(job, job.trail, True)


class Counting(Observer):
    """Counts replacements."""

    def __init__(self) -> None:
        self.replaced: list[str] = []

    def executor_replaced(self, reason: str) -> None:
        self.replaced.append(reason)


class Yard:
    """A fleet of fake workers, and what it reported."""

    def __init__(self, size: int = 1) -> None:
        self.workers: list[FakeWorker] = []
        """All that were ever made."""
        self.finished: list[Job] = []
        self.counting = Counting()
        self.fleet = Fleet(self._make, size=size, observer=self.counting)
        self.fleet.launch(self.finished.append)

    def _make(self, on_finished: OnFinished) -> FakeWorker:
        self.workers.append(FakeWorker(on_finished))
        return self.workers[-1]

    def submit(self, attempt: int = 1) -> Job:
        """A job under way in its first stage."""
        now = asyncio.get_running_loop().time()
        job = Job(Query("q", "text"), PLAN, started_at=now, ends_at=now + 60)
        self.fleet.submit(job)
        job.trail.start(RunningStage(PLAN.stages[0], now, 0.05, attempt=attempt))
        return job

    def check(self) -> bool:
        """A look that is in time."""
        return self.fleet.check(asyncio.get_running_loop().time())


def last_run(job: Job) -> StageRun:
    """The last stage of a job's trail that has ended."""
    return job.trail.runs[-1]


async def test_jobs_go_where_the_fewest_are() -> None:
    """Jobs are shared evenly, and those that ended make room."""
    yard = Yard(3)
    jobs = [yard.submit() for _ in range(9)]
    assert [len(worker.started) for worker in yard.workers] == [3, 3, 3]
    middle = yard.workers[1]
    for job in middle.started[:2]:
        middle.ends(job)
    more = [yard.submit(), yard.submit()]
    assert middle.started[3:] == more
    assert yard.finished == middle.started[:2]
    assert len(jobs) == 9


async def test_neighbours_move_and_the_culprit_stays() -> None:
    """All jobs but the one that holds the worker go on in the fresh one, and count as nobody's leftovers."""
    yard = Yard()
    first, culprit, last = (yard.submit() for _ in range(3))
    old = yard.workers[0]
    trails = [first.trail, last.trail]
    assert not yard.check()
    old.why, old.culprit = IN_STAGE, culprit
    assert yard.check()
    assert [job.culprit for job in (first, culprit, last)] == [False, True, False]
    [_, fresh] = yard.workers
    assert (fresh.started, list(old.roster.jobs.values())) == ([first, last], [culprit])
    assert [trail.closed for trail in trails] == [True, True]
    assert [first.trail.attempt, last.trail.attempt, culprit.trail.attempt] == [2, 2, 1]
    assert (yard.counting.replaced, yard.fleet.abandoned(), yard.finished) == ([IN_STAGE], [], [])
    old.ends(culprit)
    assert yard.finished == [culprit]


async def test_a_stage_is_begun_so_often_and_no_more() -> None:
    """A job that is there each time a worker falls ends as an error; one with fewer attempts goes on."""
    yard = Yard()
    tried, fresh = yard.submit(MAX_ATTEMPTS), yard.submit(MAX_ATTEMPTS - 1)
    yard.workers[0].why = IN_STAGE
    yard.check()
    assert (yard.finished, yard.workers[1].started) == ([tried], [fresh])
    run = last_run(tried)
    assert (run.outcome, run.error_type, run.attempt) == (Outcome.ERROR, "worker_died", MAX_ATTEMPTS)
    assert (fresh.trail.attempt, fresh.trail.runs) == (MAX_ATTEMPTS, [])


async def test_a_worker_that_died() -> None:
    """The job whose code ended a worker ends as an error, at once; the others move."""
    yard = Yard()
    culprit, other = yard.submit(), yard.submit()
    dead = yard.workers[0]
    dead.why, dead.culprit, dead.gone = "it has ended", culprit, True
    yard.check()
    assert (yard.finished, yard.workers[1].started) == ([culprit], [other])
    assert (last_run(culprit).outcome, last_run(culprit).error_type) == (Outcome.ERROR, "worker_died")
    await asyncio.sleep(1)
    assert (yard.finished, dead.put_downs, yard.counting.replaced) == ([culprit], 0, ["it has ended"])


async def test_a_worker_that_dies_after_it_was_condemned() -> None:
    """The job that was left its chance in there ends as an error then."""
    yard = Yard()
    culprit = yard.submit()
    old = yard.workers[0]
    old.why, old.culprit = IN_STAGE, culprit
    yard.check()
    await asyncio.sleep(1)
    assert (yard.finished, old.put_downs) == ([], 0)
    old.gone = True
    await asyncio.sleep(2 * TICK_S)
    assert (yard.finished, last_run(culprit).error_type) == ([culprit], "worker_died")


async def test_a_tired_worker_is_retired() -> None:
    """It gets no more jobs and keeps those it has; it is put down when the last of them has ended."""
    yard = Yard()
    job = yard.submit()
    old = yard.workers[0]
    old.tired = True
    yard.check()
    later = yard.submit()
    assert (old.started, yard.workers[1].started, len(yard.counting.replaced)) == ([job], [later], 1)
    await asyncio.sleep(1)
    assert (old.put_downs, job.trail.attempt) == (0, 1)
    old.ends(job)
    await asyncio.sleep(1)
    assert (yard.finished, old.put_downs, len(yard.workers)) == ([job], 1, 2)


async def test_the_jobs_of_a_retired_worker_that_dies_go_on_elsewhere() -> None:
    """All but the one whose step it was: that one ends, the others had only stayed where they were."""
    yard = Yard()
    culprit, neighbour = yard.submit(), yard.submit()
    old = yard.workers[0]
    old.tired = True
    yard.check()
    old.culprit, old.gone = culprit, True
    await asyncio.sleep(2 * TICK_S)
    assert (yard.finished, last_run(culprit).error_type) == ([culprit], "worker_died")
    assert yard.workers[1].started == [neighbour]


async def test_the_jobs_of_a_retired_worker_that_is_held_up_go_on_elsewhere() -> None:
    """All but the one that holds it: that one keeps its chance to come back in time."""
    yard = Yard()
    culprit, neighbour = yard.submit(), yard.submit()
    old = yard.workers[0]
    old.tired = True
    yard.check()
    await asyncio.sleep(1)
    assert yard.workers[1].started == []
    old.culprit, old.why = culprit, IN_STAGE
    await asyncio.sleep(2 * TICK_S)
    assert (yard.workers[1].started, culprit.culprit, yard.finished) == ([neighbour], True, [])
    old.ends(culprit)
    assert yard.finished == [culprit]


@pytest.mark.parametrize("how", ["it ends", "its query ends"])
async def test_condemned_workers_are_put_down_when_nobody_waits(how: str) -> None:
    """One is left alone while its culprit is waited for, then put down again and again until it is gone."""
    yard = Yard()
    culprit = yard.submit()
    old = yard.workers[0]
    old.why, old.culprit, old.gone_after = IN_STAGE, culprit, 5
    yard.check()
    await asyncio.sleep(10)
    assert old.put_downs == 0
    if how == "it ends":
        old.ends(culprit)
    else:
        yard.fleet.cancel(culprit)
        assert len(yard.fleet.abandoned()) == 1
    await asyncio.sleep(10)
    assert (old.put_downs, yard.fleet.abandoned()) == (5, [])
    assert repr(yard.fleet).endswith("condemned=[]>")


async def test_only_looks_in_time_count() -> None:
    """A look is told whether it came when it was due."""
    yard = Yard()
    for pause_s in (1.0, TICK_S, TICK_S, 5 * TICK_S, TICK_S):
        await asyncio.sleep(pause_s)
        yard.check()
    assert yard.workers[0].counted == [False, True, True, False, True]


async def test_workers_that_end_with_the_fleet_are_not_replaced() -> None:
    """A look that comes after the end makes no new worker."""
    yard = Yard()
    job = yard.submit()
    await yard.fleet.shut_down(1.0)
    assert (job.ended, yard.workers[0].gone) == (True, True)
    yard.workers[0].why = "it has ended"
    yard.check()
    assert (len(yard.workers), yard.counting.replaced) == (1, [])


async def test_a_moved_job_whose_time_is_up_runs_nothing() -> None:
    """One that is begun anew at its deadline calls no user code, and is a timeout of the pipeline."""
    calls: list[str] = []
    app = Pipeline(builtins=False)

    @app.intent
    async def intent(_query: Query, _ctx: StageContext) -> dict[str, Any]:
        calls.append("intent")
        return {}

    yard = Yard()
    job = yard.submit()
    yard.workers[0].why = IN_STAGE
    await asyncio.sleep(60)
    yard.check()
    assert yard.workers[1].started == [job]
    await Orchestrator(app, plan=PLAN).run(job, job.trail)
    now = asyncio.get_running_loop().time()
    conclusion = conclude(job.trail, PLAN, started_at=job.started_at, ends_at=job.ends_at, now=now)
    assert (calls, conclusion.status) == ([], PipelineStatus.TIMEOUT)
    assert [str(note.scope) for note in conclusion.timeouts] == ["pipeline"]


# The patrol


class Beat:
    """Dispatcher, executor and policies of a patrol in one, in whatever state a test puts them."""

    def __init__(self) -> None:
        self.jobs: dict[int, Job] = {}
        self.waiting = 0
        self.on_first: Callable[[], None] = lambda: None
        self.left: list[Abandoned] = []
        self.checks = 0
        self.lag_s = 0.0
        self.stuck: list[frozenset[str]] = []
        self.disturbed_at: float | None = None
        self.holds_up = False
        self.cpu_s = 0.0

    def check(self, _now: float) -> bool:
        self.checks += 1
        return self.holds_up

    def end_waiting(self, _now: float) -> None:
        pass

    def abandoned(self) -> list[Abandoned]:
        return self.left

    def tick(self, _now: float, stuck: frozenset[str]) -> None:
        self.stuck.append(stuck)


def patrol(beat: Any) -> Patrol:
    """A patrol of these parts that takes two calls of a node for too many."""
    return Patrol(
        running=beat, dispatcher=beat, executor=beat, policies=beat, max_stuck=2, cpu_clock=lambda: beat.cpu_s
    )


async def test_the_patrol_rests_when_there_is_nothing_to_see() -> None:
    """It makes rounds while queries run or wait, or code runs on, and begins anew with the next query."""
    beat = Beat()
    assert repr(patrol(beat)) == "<Patrol resting>"
    for name, value in (("waiting", 1), ("left", [Abandoned("bad", 0.0)])):
        before, nothing = beat.checks, getattr(beat, name)
        setattr(beat, name, value)
        beat.on_first()
        await asyncio.sleep(100.5 * TICK_S)
        assert beat.checks - before == 100
        setattr(beat, name, nothing)
        await asyncio.sleep(100 * TICK_S)
        assert beat.checks - before == 101


async def test_code_that_was_told_to_stop_just_now_is_not_stuck() -> None:
    """A node is left alone when two of its calls have not come back for a while, and not before."""
    beat = Beat()
    patrol(beat)
    now = asyncio.get_running_loop().time()
    beat.left = [Abandoned("bad", now), Abandoned("bad", now), Abandoned("once", now)]
    beat.on_first()
    await asyncio.sleep(SETTLE_S)
    assert set(beat.stuck) == {frozenset()}
    await asyncio.sleep(2 * TICK_S)
    assert beat.stuck[-1] == {"bad"}
    beat.left = beat.left[1:]
    await asyncio.sleep(TICK_S)
    assert beat.stuck[-1] == frozenset()


@pytest.mark.parametrize(
    ("late_s", "cpu_share", "starved"), [(0.1, 0.0, True), (0.1, 1.0, False), (0.02, 0.0, False)]
)
async def test_a_round_that_is_late_for_want_of_a_cpu(
    late_s: float, cpu_share: float, *, starved: bool
) -> None:
    """Time that the machine spent on others is nobody's fault; time that this process spent may be."""
    beat = Beat()
    beat.waiting = 1
    patrol(beat)
    beat.on_first()
    await asyncio.sleep(TICK_S / 2)
    block(late_s)
    beat.cpu_s += cpu_share * late_s
    await asyncio.sleep(TICK_S / 4)
    assert (beat.disturbed_at is not None) is starved


async def test_code_that_held_up_others_is_a_disturbance() -> None:
    """The policies are told when."""
    beat = Beat()
    beat.waiting, beat.holds_up = 1, True
    patrol(beat)
    beat.on_first()
    await asyncio.sleep(TICK_S)
    assert beat.disturbed_at == asyncio.get_running_loop().time()
