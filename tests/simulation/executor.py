"""The executor double: queries are fast, slow, fail, or never end."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import orjson

from fivestage.core.offer import Offer
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage_schemas import Outcome

from .questions import answer_to, data_of, offers

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.dispatch.in_flight import InFlightQuery
    from fivestage.executors.executor import OnFinished
    from fivestage.pipeline.thread_pool import Abandoned

QUICK_S = 0.03
SLOW_S = 0.35
LIMIT_S = 0.1
PROCESSING, VALIDATION = 2, 3
ODD = (
    "slow", "slow", "stuck", "late", "late", "fails", "fails", "skips", "rejected", "large",
    "second", "second", "moved",
)  # fmt: skip
"""The possible courses of a query beside success, see ``_Course``."""
LATE_AGAIN = 0.3
"""The probability that a second node times out too."""
PADDINGS = (15_000, 25_000, 50_000)
"""Bytes: fits, fits once but not twice, does not fit (see MAX_RECORD_BYTES)."""
JUST_BEFORE_S = 1e-6
"""The time before a deadline at which the job's progress is written."""
REPORTS_S = (0.0, 0.0005, 0.003)
"""Times from the start of an enqueued job until the dispatcher knows of it."""
Attempt = StageRun | RunningStage
"""An attempt that ends, or one lost to a move."""
ERROR_TYPES = ("RuntimeError", "breaker_open", "node_busy", "worker_died")


class Manners(NamedTuple):
    """The probabilities of failures and delays."""

    odd: float


class SimExecutor:
    """Runs no code, and reports results after a while.

    Args:
        random: Decides the course of each query.
        manners: The probabilities.
        jobs: Store of jobs, by the ``traceparent`` of their events.
        note: Notes an event for the trace.
    """

    def __init__(
        self, random: Random, manners: Manners, jobs: dict[bytes, Job], note: Callable[[str], None]
    ) -> None:
        self._random = random
        self._manners = manners
        self._jobs = jobs
        self._note = note
        self._next: deque[Job] = deque()
        self.local_queue = self
        self._on_finished: OnFinished = lambda job: None  # noqa: ARG005
        self._courses: dict[Job, list[Attempt]] = {}
        self.lag_s = 0.0
        self.failure: str | None = None
        self.unready: str | None = None

    async def start(self, on_finished: OnFinished) -> None:
        """See Executor."""
        self._on_finished = on_finished

    def submit(self, job: Job) -> None:
        """See Executor."""
        self._store(job)
        self._run(job)

    def _store(self, job: Job) -> None:
        ticket: InFlightQuery = job.origin
        if ticket.envelope.trace_headers:
            self._jobs[ticket.envelope.trace_headers[0][1]] = job

    def enqueue(self, job: Job) -> None:
        """See LocalQueue."""
        self._next.append(job)

    def dequeue(self, job: Job) -> bool:
        """See LocalQueue."""
        if job not in self._next:
            return False
        self._next.remove(job)
        self._note("taken back")
        return True

    def _start_next(self) -> None:
        """Start an enqueued job, which is reported a little later, as from another thread."""
        loop = asyncio.get_running_loop()
        started_at = loop.time()
        job = next((one for one in self._next if one.due_at > started_at), None)
        if job is not None:
            self._next.remove(job)
            self._store(job)
            ends_at = min(started_at + job.ends_at - job.started_at, job.due_at)
            job.history.times = started_at, ends_at
            loop.call_later(self._random.choice(REPORTS_S), self._report, job, job.history)

    def _report(self, job: Job, history: StageHistory) -> None:
        assert job.watcher is not None
        assert history.times is not None
        job.watcher.goes_on(job, history, *history.times)
        if not history.closed:
            self._note("started ahead")
            self._run(job)

    def _run(self, job: Job) -> None:
        loop, random = asyncio.get_running_loop(), self._random
        fate = random.choice(ODD) if random.random() < self._manners.odd else "well"
        if job.history.superseded and random.random() < 0.5:  # its call was taken away from a node
            self._courses[job] = []
            loop.call_soon(self._finish, job, job.history)
            return
        course = _course(random, job, fate, loop.time())
        if fate == "stuck":
            stuck = random.randrange(len(course))
            for number in range(stuck):
                _end(job, course, number)
            stage = course[stuck]
            job.history.start(RunningStage(stage.spec, loop.time(), LIMIT_S, stage.node, job.history.attempt))
            _offer(job, stage)
            return
        self._courses[job] = course
        loop.call_at(job.ends_at - JUST_BEFORE_S, self._at_deadline)
        loop.call_at(_ends_at(course, len(course) - 1), self._finish, job, job.history)

    def _finish(self, job: Job, history: StageHistory) -> None:
        course, has_slot = self._courses.pop(job, []), not history.closed
        if has_slot:
            for number in range(len(course)):
                _end(job, course, number)
            self._start_next()
        self._on_finished(job)

    def _at_deadline(self) -> None:
        """Write the histories of due jobs at their deadlines, as the service reads them then.

        All due ones: after a late loop one timer of the service may end several.
        """
        now = asyncio.get_running_loop().time() + JUST_BEFORE_S
        for job in [job for job in self._courses if job.ends_at <= now]:
            self._write(job, self._courses.pop(job))

    def _write(self, job: Job, course: list[Attempt]) -> None:
        for number, run in enumerate(course):
            assert run.started_at is not None
            if _ends_at(course, number) > job.ends_at:
                job.history.start(
                    RunningStage(run.spec, run.started_at, run.granted_s, run.node, run.attempt)
                )
                _offer(job, run)
                break
            _end(job, course, number)

    def cancel(self, job: Job) -> None:
        """See Executor; results that come later are dropped."""
        self._courses.pop(job, None)
        job.history.closed = True

    def refresh(self) -> None:
        """See Executor."""

    def check(self, _: float) -> bool:
        """See Executor."""
        return False

    async def stop(self, _: float) -> None:
        """See Executor."""

    def abandoned(self) -> list[Abandoned]:
        """See Executor."""
        return []


def _course(random: Random, job: Job, fate: str, now: float) -> list[Attempt]:
    """Draw the rest of the stages, while there is time."""
    left = job.plan.stages[len(job.history.runs) :]
    odd = random.choice(left).sequence
    in_all_s = random.random() * (SLOW_S if fate == "slow" else QUICK_S)
    course: list[Attempt] = []
    for spec in left:
        run = StageRun(spec, Outcome.SUCCESS, started_at=now, granted_s=LIMIT_S)
        run.duration_s = in_all_s / len(left)
        if spec.sequence == PROCESSING:
            _process(random, job, run, fate)
        if spec.sequence == odd and fate in _ODDITIES:
            _ODDITIES[fate](random, run)
        if run.outcome is Outcome.SUCCESS and run.data_json is None:
            _succeed(job, run, rejected=fate == "rejected")
        if spec.sequence == PROCESSING and fate == "second" and run.attempt == 1:
            course.append(_fail_first(random, run))
            if random.random() < LATE_AGAIN:
                _late(random, run)
        if spec.sequence == odd and fate == "moved":
            course.append(_move(random, run))
        run.partial = job.allow_partial and _is_late(run) and offers(job.query.query_id)
        course.append(run)
        now = (run.started_at or 0.0) + run.duration_s
        if run.ends_query:
            break
    return course


def _process(random: Random, job: Job, run: StageRun, fate: str) -> None:
    query, history = job.query, job.history
    run.attempt = history.attempt
    run.node = _node(run.attempt)  # a call that is taken away goes on at the next node
    padding = random.choice(PADDINGS) if fate == "large" else 0
    run.data_json = orjson.dumps(answer_to(query.query_id, query.user_input, padding))


def _node(number: int) -> str:
    return f"node{number}"


def _fail_first(random: Random, run: StageRun) -> StageRun:
    """Draw the earlier attempt: a node that is suspended, fails, or times out."""
    first = StageRun(run.spec, Outcome.ERROR, node=_node(1), started_at=run.started_at, granted_s=LIMIT_S)
    first.duration_s = random.random() * QUICK_S
    first.error, first.error_type = "it failed", random.choice(("breaker_open", "LookupError", "timeout"))
    if first.error_type == "breaker_open":
        first.duration_s = first.granted_s = 0.0
    if first.error_type == "timeout":
        first.outcome, first.granted_s = Outcome.TIMEOUT, first.duration_s
    _follow(run, first.duration_s)
    run.node = _node(2)
    return first


def _move(random: Random, run: StageRun) -> RunningStage:
    """Draw the earlier attempt: it ran when its loop stalled."""
    assert run.started_at is not None
    waited_s = random.choice((0.0, 0.002))
    moved = RunningStage(run.spec, run.started_at, LIMIT_S, run.node, run.attempt, False, waited_s)
    _follow(run, random.random() * QUICK_S)
    return moved


def _follow(run: StageRun, after_s: float) -> None:
    run.attempt += 1
    run.started_at = (run.started_at or 0.0) + after_s


def _ends_at(course: list[Attempt], number: int) -> float:
    """Return when an attempt ends, or is lost: when the next one starts."""
    run = course[number]
    if isinstance(run, RunningStage):
        run, took_s = course[number + 1], 0.0
    else:
        took_s = run.duration_s
    return (run.started_at or 0.0) + took_s


def _succeed(job: Job, run: StageRun, *, rejected: bool) -> None:
    run.data_json = orjson.dumps(data_of(job.query.query_id, run.spec.sequence))
    if run.spec.sequence == VALIDATION:
        run.verdict = not rejected


def _late(random: Random, run: StageRun) -> None:
    run.outcome, run.data_json = Outcome.TIMEOUT, None
    run.granted_s = run.duration_s = 0.005 + random.random() * 0.05
    run.error, run.error_type = "timed out", "timeout"


def _fails(random: Random, run: StageRun) -> None:
    run.outcome, run.data_json = Outcome.ERROR, None
    run.error, run.error_type = "it raised", random.choice(ERROR_TYPES)


def _skips(_: Random, run: StageRun) -> None:
    run.outcome, run.data_json, run.node = Outcome.SKIPPED, None, None
    run.error, run.error_type = "no time left", "skipped"
    run.granted_s = run.duration_s = 0.0


_ODDITIES = {"late": _late, "fails": _fails, "skips": _skips}


def _end(job: Job, course: list[Attempt], number: int) -> None:
    """End an attempt: the answer is set before it ends."""
    run, history = course[number], job.history
    if isinstance(run, RunningStage):
        history.start(run)
        job.move()
        return
    if run.outcome is Outcome.SKIPPED or run.error_type == "breaker_open":
        run.started_at = None
    if run.spec.sequence == PROCESSING and run.success:
        history.answer_json, history.confidence = run.data_json, 0.5
    if _is_late(run):
        _offer(job, run)
    if number + 1 < len(course) and course[number + 1].spec is run.spec:
        history.fail_over(run)
    else:
        history.finish(run)


def _is_late(run: StageRun) -> bool:
    """Return whether a call of a node has timed out."""
    return run.spec.sequence == PROCESSING and run.outcome is Outcome.TIMEOUT


def _offer(job: Job, stage: Attempt) -> None:
    """Offer an answer in processing, which does not end in time."""
    query_id, asks = job.query.query_id, job.query.user_input
    if stage.spec.sequence == PROCESSING and offers(query_id):
        job.history.offer = Offer(orjson.dumps(answer_to(query_id, asks)), 0.25, stage.node)
