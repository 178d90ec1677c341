"""The queries that run: each ends when the executor is done with it, or when its time is up."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.admission.thread_queues import ThreadQueues
from fivestage.core.outcome import CLOCK_SLACK_S, NO_THREAD, conclude
from fivestage.core.stage_history import StageRun
from fivestage_schemas import Outcome, PipelineStatus, StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.admission.slots import Slots
    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_history import RunningStage, StageHistory
    from fivestage.executors import Executor

FORGET_AT: Final = 1000
"""So many deadlines of ended jobs are kept, and as many again as jobs run: leaving them costs nothing."""
LATE_S: Final = 0.03
"""A timer that is later by more says that this loop has not turned, so it has not heard of threads either."""
_PROCESSING: Final = StageType.PROCESSING
_SUCCEEDED: Final = PipelineStatus.SUCCESS
_TIMED_OUT: Final = PipelineStatus.TIMEOUT


class ActiveJobs:
    """Starts jobs, ends them once, and learns from how they end.

    Args:
        executor: Runs them.
        slots: Each takes one.
        learned: What is learned, lane by lane.
        observer: Counts results that come after the end of their job, and failovers.
    """

    def __init__(
        self, *, executor: Executor, slots: Slots[Any], learned: LearnedState, observer: Observer
    ) -> None:
        self._executor = executor
        self._slots = slots
        self._learned = learned
        self._observer = observer
        self.jobs: dict[int, Job] = {}
        """By number, the oldest first."""
        self._deadlines: list[tuple[float, int]] = []
        """A heap of when jobs must end; some of them may have ended."""
        self.rings_at = inf
        """When the next query may have to end."""
        self._timer: asyncio.TimerHandle | None = None
        self._queues = ThreadQueues()
        self.on_slot_free: Callable[[], None] = lambda: None
        """Called when a job waits for a thread: it gives its slot back."""
        self.on_first: Callable[[], None] = lambda: None
        """Called when one begins and none ran before."""
        self.on_ended: Callable[[Job, QueryOutcome, float], None] = lambda _job, _conclusion, _now: None
        """Called when one has ended, at what time (monotonic seconds); its slot is free."""

    def __repr__(self) -> str:
        return f"<ActiveJobs {len(self.jobs)}, {self.parked} of them wait for a thread>"

    @property
    def parked(self) -> int:
        """Jobs that wait for a thread. They hold no slot."""
        return len(self._queues)

    def start(self, job: Job) -> None:
        """Hand a job over, and see to it that it ends at its deadline whatever the executor does."""
        if not self.jobs:
            self.on_first()
        self.jobs[job.number] = job
        job.watcher = self
        heappush(self._deadlines, (job.ends_at, job.number))
        if job.ends_at < self.rings_at:
            self._set_timer(job.ends_at)
        job.started_among = self._slots.occupy(job.query.lane, job.started_at)
        self._executor.submit(job)

    def _set_timer(self, at: float) -> None:
        """One for all: nearly every job ends long before, and one of its own costs it more than this."""
        if self._timer is not None:
            self._timer.cancel()
        self.rings_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._at_deadline)

    def _at_deadline(self) -> None:
        """End those whose time is up, and wait for the next one that runs.

        All are published before any code is cancelled: that takes time, and their loop the interpreter.
        """
        over: list[Job] = []
        deadlines, now = self._deadlines, asyncio.get_running_loop().time()
        if now - self.rings_at > LATE_S:
            self._queues.excuse(now - self.rings_at)
        self._timer, self.rings_at = None, inf
        try:
            while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in self.jobs):
                job = self.jobs.get(heappop(deadlines)[1])
                if job is None:
                    continue
                due_at = job.ends_at if job.waits_since is None else self._queues.ends_at(job)
                if due_at > now:  # it waits for a thread, or has waited: its time is not up yet
                    heappush(deadlines, (due_at, job.number))
                elif job.due_at > now and (waiting := self._waits_to_call(job)) is not None:
                    self._end_wait(job, waiting, "node_busy", NO_THREAD)
                else:
                    over.append(job)
                    self._end(job)
        finally:  # whatever is wrong with one of them, the others have theirs
            if deadlines and deadlines[0][0] < self.rings_at:
                self._set_timer(deadlines[0][0])
            for job in over:
                self._executor.cancel(job)

    # Waiting for a thread: see core.job.Watcher

    def waits(self, job: Job, history: StageHistory, pool: object) -> None:
        """A job waits for a thread: it gives its slot back, and its time stands still."""
        if job.ended or history is not job.history or job.waits_since is not None:
            return
        now = asyncio.get_running_loop().time()
        self._queues.enter(job, pool, now)
        self._learned.pressure.note_wait(now, due=job.due_at < inf)
        self._slots.release(job.query.lane)
        self.on_slot_free()

    def goes_on(self, job: Job, history: StageHistory, started_at: float, ends_at: float) -> None:
        """A thread has taken the call of a job: it takes a slot again, without asking for one."""
        if job.ended or history is not job.history:
            return
        job.started_at, job.ends_at = started_at, ends_at  # before the flag that says so
        if job.waits_since is not None:
            now = asyncio.get_running_loop().time()
            self._queues.leave(job, now)
            self._runs_again(job, now)

    def look_at_wait(self, job: Job) -> None:
        """Let another node answer where the one that a job waits for a thread to call must not be called."""
        waiting = self._waits_to_call(job)
        if waiting is not None and waiting.node and not job.routing.allows(waiting.node):
            self._end_wait(job, waiting, *job.routing.rejection(waiting.node))

    def _waits_to_call(self, job: Job) -> RunningStage | None:
        """The stage of a job that waits for a thread to call a node: another may answer instead."""
        waiting = None if job.waits_since is None else job.history.waiting
        return waiting if waiting is not None and waiting.spec.stage_type is _PROCESSING else None

    def _end_wait(self, job: Job, waiting: RunningStage, error_type: str, why: str) -> None:
        """A job waits for a thread no longer: the next node is called, or it ends with the reason."""
        self._executor.cancel(job)
        job.move()
        spec, node, attempt = waiting.spec, waiting.node, waiting.attempt
        job.history.fail_over(
            StageRun(spec, Outcome.ERROR, error=why, error_type=error_type, node=node, attempt=attempt)
        )
        self._executor.submit(job)

    def moves(self, job: Job) -> None:
        """A job that waits goes on elsewhere: what it has waited so far does not count."""
        if job.waits_since is None:
            return
        now = asyncio.get_running_loop().time()
        waited_s = now - job.waits_since
        job.started_at, job.ends_at = job.started_at + waited_s, job.ends_after_wait(now)
        self._queues.leave(job)
        self._runs_again(job, now)

    def _runs_again(self, job: Job, now: float) -> None:
        job.started_among = self._slots.occupy(job.query.lane, now)
        heappush(self._deadlines, (job.ends_at, job.number))
        if job.ends_at < self.rings_at:
            self._set_timer(job.ends_at)
        self.on_slot_free()  # a start after a quiet time raises the limit

    def finished(self, job: Job) -> None:
        """The executor has no more to do for *job* (its ``on_finished``)."""
        if job.ended:
            self._observer.came_late()
        else:
            self._end(job)

    def _end(self, job: Job) -> None:
        job.end()
        now = asyncio.get_running_loop().time()
        parked = job.waits_since is not None
        if parked:
            self._queues.leave(job)
            over_s = max(0.0, now - job.ends_at)  # no thread has run it meanwhile
            job.started_at, job.ends_at = job.started_at + over_s, job.ends_at + over_s
        conclusion = conclude(job.history, job.plan, started_at=job.started_at, ends_at=job.ends_at, now=now)
        self._learn(job, conclusion, now, ran=not parked)
        del self.jobs[job.number]
        if len(self._deadlines) > FORGET_AT + 2 * len(self.jobs):
            self._deadlines[:] = [(one.ends_at, one.number) for one in self.jobs.values()]
            heapify(self._deadlines)
        if not parked:
            self._slots.release(job.query.lane)
        self.on_ended(job, conclusion, now)

    def _learn(self, job: Job, conclusion: QueryOutcome, now: float, *, ran: bool) -> None:
        superseded = conclusion.superseded if conclusion.earlier else []
        disturbed_at = -inf if job.is_blocking else max(job.held_at, self._learned.disturbed_at)
        self._learned.lane(job.query.lane).concluded(conclusion, superseded, now, disturbed_at=disturbed_at)
        if superseded:
            self._observer.failed_over(job.query.lane, len(superseded))
        late = conclusion.status is _TIMED_OUT
        whole = conclusion.budget_s >= job.plan.total_s - CLOCK_SLACK_S
        if ran and (conclusion.status is _SUCCEEDED or (late and (whole or self._slots.waiting))):
            self._learn_limit(job, conclusion, now)

    def _learn_limit(self, job: Job, conclusion: QueryOutcome, now: float) -> None:
        """Where queries wait for slots, time that ran out counts even if part of it was spent waiting."""
        change = self._slots.learn(
            now,
            duration_s=conclusion.duration_s,
            started_among=job.started_among,
            dropped=conclusion.status is _TIMED_OUT,
        )
        if change is not None:
            self._observer.control_changed(change)
