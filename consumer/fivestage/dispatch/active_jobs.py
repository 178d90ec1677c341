"""Owns the queries that run: starts each and ends it once."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage._deadline_timer import DeadlineTimer
from fivestage.core.admission.thread_queues import ThreadQueues
from fivestage.core.outcome import NO_THREAD, conclude
from fivestage.core.stage_run import StageRun
from fivestage.dispatch.enqueued_jobs import EnqueuedJobs
from fivestage.dispatch.learner import Learner
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.admission.slots import Slots
    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage
    from fivestage.dispatch.watchdog import Watchdog
    from fivestage.executors import Executor

LATE_S: Final = 0.03
"""Seconds of delay above which a timer shows a stall of the bus loop, in which no progress was noticed."""
_PROCESSING: Final = StageType.PROCESSING


class ActiveJobs:
    """The jobs of all queries that run. Each ends when its executor is done or its time is up.

    A job that waits for a thread of the executor gives its slot back. Its deadline moves by the wait, at most
    to the end-to-end deadline. So does that of a job that waits in the executor for its slot.

    Args:
        executor: Runs the jobs.
        slots: Each running job takes one.
        learned: The learned state of each lane.
        observer: Counts results that come too late, and what the Learner counts.
        watchdog: Looks for overdue and blocked jobs while there are any.
        on_ended: Called with a job that has ended, its outcome and the time (monotonic seconds); its slot is
            free by then.
        on_expired: Called with a job that has waited for its slot until its end-to-end deadline, and the
            time.
        on_slot_free: Called when waiting queries may get slots: a job has given its slot back to wait for a
            thread, or takes a slot again, which may raise the limit.
    """

    def __init__(
        self,
        *,
        executor: Executor,
        slots: Slots[Any],
        learned: LearnedState,
        observer: Observer,
        watchdog: Watchdog,
        on_ended: Callable[[Job, QueryOutcome, float], None],
        on_expired: Callable[[Job, float], None],
        on_slot_free: Callable[[], None],
    ) -> None:
        self._executor = executor
        self._slots = slots
        self._learned = learned
        self._observer = observer
        self._learner = Learner(slots, learned, observer)
        self._watchdog = watchdog
        self._on_ended = on_ended
        self._on_expired = on_expired
        self._on_slot_free = on_slot_free
        self.jobs: dict[int, Job] = {}
        """The jobs by number, the oldest first."""
        self._deadlines: DeadlineTimer[int] = DeadlineTimer(self.jobs.__contains__, self._at_deadline)
        """By the numbers of jobs, some of which have a later deadline by now."""
        self._queues = ThreadQueues()
        self.enqueued = EnqueuedJobs(slots)
        """Jobs that wait in the executor for the next slot."""

    def __repr__(self) -> str:
        return f"<ActiveJobs {len(self.jobs)}, {self.parked} of them wait for a thread>"

    @property
    def next_end_at(self) -> float:
        """When the next job may have to end."""
        return self._deadlines.set_for

    @property
    def parked(self) -> int:
        """Jobs that wait for a thread. They hold no slot."""
        return len(self._queues)

    def start(self, job: Job) -> None:
        """Submit a job, and end it at its deadline whatever the executor does.

        If no slot is free, the executor must have a local queue, in which the job waits for the next one.
        """
        if not self.jobs:
            self._watchdog.watch(self)
        self.jobs[job.number] = job
        job.watcher = self
        if self._slots.may_run or (queue := self._executor.local_queue) is None:
            self._run(job, job.started_at)
            self._executor.submit(job)
        else:
            if job.due_at < inf:
                self._deadlines.watch(job.due_at, job.number)
            self.enqueued.put(job, queue)

    def start_dequeued(self, job: Job) -> None:
        """Give a free slot to a job that was enqueued and taken back."""
        self.moves(job)
        self._executor.submit(job)

    def drop_dequeued(self, job: Job) -> None:
        """Forget a job that was enqueued and taken back."""
        job.end()
        self._leave_queue(job)
        del self.jobs[job.number]

    def _run(self, job: Job, now: float) -> None:
        """Take a slot, and watch the deadline."""
        job.started_among = self._slots.occupy(job.query.lane, now)
        self._deadlines.watch(job.ends_at, job.number)

    def _at_deadline(self, set_for: float) -> None:
        """End all jobs whose time is up.

        All results are published before any code is cancelled, because cancelling takes time.
        """
        over: list[Job] = []
        now = asyncio.get_running_loop().time()
        if now - set_for > LATE_S:
            self._queues.excuse(now - set_for)
        try:
            self._executor.refresh()  # what has just ended counts
            while (due := self._deadlines.pop(now)) is not None:
                job = self.jobs[due[1]]
                due_at = self._ends_at(job)
                if due_at > now:  # a wait has moved the deadline
                    self._deadlines.watch(due_at, job.number)
                elif self.enqueued.dequeue(job):
                    self.drop_dequeued(job)
                    self._on_expired(job, now)
                elif job.due_at > now and (waiting := self._call_waiting_for_thread(job)) is not None:
                    self._skip_waiting_call(job, waiting, "node_busy", NO_THREAD)
                else:
                    over.append(job)
                    self._end(job)
        finally:
            for job in over:
                self._executor.cancel(job)

    def _ends_at(self, job: Job) -> float:
        """When a job ends if it goes on to run, or to wait, as it does now."""
        if job.waits_since is None:
            return job.ends_at
        return job.due_at if job in self.enqueued else self._queues.ends_at(job)

    # Waiting in the executor: see core.job.Watcher

    def waits(self, job: Job, history: StageHistory, pool: object) -> None:
        """Take the slot from a job that starts to wait for a thread, whose deadline now moves."""
        if job.ended or history is not job.history or job.waits_since is not None:
            return
        now = asyncio.get_running_loop().time()
        self._queues.enter(job, pool, now)
        self._learned.pressure.note_wait(now, due=job.due_at < inf)
        self._slots.release(job.query.lane)
        self._on_slot_free()

    def goes_on(self, job: Job, history: StageHistory, started_at: float, ends_at: float) -> None:
        """Give a slot, even if none is free, to a job that the executor has started or given a thread."""
        if job.ended or history is not job.history:
            return
        job.started_at, job.ends_at = started_at, ends_at  # before waits_since: see ends_after_wait
        if job.waits_since is not None:
            now = asyncio.get_running_loop().time()
            self._leave_queue(job, now)
            self._run_again(job, now)

    def moves(self, job: Job) -> None:
        """Give a slot to a job that moves, or stops waiting without a thread; its wait does not count."""
        if job.waits_since is None or self._note_start(job):
            return
        now = asyncio.get_running_loop().time()
        waited_s = now - job.waits_since
        job.started_at, job.ends_at = job.started_at + waited_s, job.ends_after_wait(now)
        self._leave_queue(job)
        self._run_again(job, now)

    def _note_start(self, job: Job) -> bool:
        """Count a start by the executor, if there was one: its report, which comes later, has no effect."""
        times = job.history.times if job in self.enqueued else None
        if times is not None:
            self.goes_on(job, job.history, *times)
        return times is not None

    def _leave_queue(self, job: Job, served_at: float | None = None) -> None:
        if not self.enqueued.discard(job):
            self._queues.leave(job, served_at)

    def _run_again(self, job: Job, now: float) -> None:
        self._run(job, now)
        self._on_slot_free()  # taking a slot after a quiet time raises the limit

    def check_wait(self, job: Job) -> None:
        """Skip the node for whose call a job waits, if that node must not be called any more."""
        waiting = self._call_waiting_for_thread(job)
        if waiting is not None and waiting.node and not job.routing.allows(waiting.node):
            self._skip_waiting_call(job, waiting, *job.routing.rejection(waiting.node))

    def _call_waiting_for_thread(self, job: Job) -> RunningStage | None:
        """Return the processing stage whose call waits for a thread; None if there is none."""
        waiting = None if job.waits_since is None else job.history.waiting
        return waiting if waiting is not None and waiting.spec.stage_type is _PROCESSING else None

    def _skip_waiting_call(self, job: Job, waiting: RunningStage, error_type: str, why: str) -> None:
        """Fail the waiting call of a node: the next node is called, or the query ends with the reason."""
        self._executor.cancel(job)
        job.move()
        spec, node, attempt = waiting.spec, waiting.node, waiting.attempt
        job.history.fail_over(
            StageRun(spec, Outcome.ERROR, error=why, error_type=error_type, node=node, attempt=attempt)
        )
        self._executor.submit(job)

    # Ending

    def finished(self, job: Job) -> None:
        """End a job that the executor is done with; this is the ``on_finished`` of the executor."""
        if job.ended:
            self._observer.came_late()
        else:
            self._end(job)

    def _end(self, job: Job) -> None:
        parked = job.waits_since is not None and not self._note_start(job)
        job.end()
        now = asyncio.get_running_loop().time()
        if parked:
            self._leave_queue(job)
            over_s = max(0.0, now - job.ends_at)  # the wait for a thread, beyond the deadline
            job.started_at, job.ends_at = job.started_at + over_s, job.ends_at + over_s
        outcome = conclude(job.history, job.plan, started_at=job.started_at, ends_at=job.ends_at, now=now)
        self._learner.learn(job, outcome, now, ran=not parked)
        del self.jobs[job.number]
        if not parked:
            self._slots.release(job.query.lane)
        self._on_ended(job, outcome, now)
