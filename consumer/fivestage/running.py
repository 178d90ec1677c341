"""The queries that run: each ends when the executor is done with it, or when its time is up."""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.outcome import CLOCK_SLACK_S, conclude
from fivestage_schemas import PipelineStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.core.admission import Slots
    from fivestage.core.events import Observer
    from fivestage.core.job import Job
    from fivestage.core.outcome import Conclusion
    from fivestage.core.policy import Policies
    from fivestage.core.trail import StageRun
    from fivestage.executors import Executor

FORGET_AT: Final = 1000
"""So many deadlines of ended jobs are kept, and as many again as jobs run: leaving them costs nothing."""
_SUCCEEDED: Final = PipelineStatus.SUCCESS
_TIMED_OUT: Final = PipelineStatus.TIMEOUT


class Running:
    """Starts jobs, ends them once, and learns from how they end.

    Args:
        executor: Runs them.
        slots: Each takes one.
        policies: What is learned, lane by lane.
        observer: Told of what comes after its job's end, and of nodes that stood in.
    """

    def __init__(
        self, *, executor: Executor, slots: Slots[Any], policies: Policies, observer: Observer
    ) -> None:
        self._executor = executor
        self._slots = slots
        self._policies = policies
        self._observer = observer
        self.jobs: dict[int, Job] = {}
        """By number, the oldest first."""
        self._deadlines: list[tuple[float, int]] = []
        """A heap of when jobs must end; some of them may have ended."""
        self._rings_at = inf
        self._timer: asyncio.TimerHandle | None = None
        self.on_first: Callable[[], None] = lambda: None
        """Called when one begins and none ran before."""
        self.on_ended: Callable[[Job, Conclusion, float], None] = lambda _job, _conclusion, _now: None
        """Called when one has ended, at what time (monotonic seconds); its slot is free."""

    def __repr__(self) -> str:
        return f"<Running {len(self.jobs)}>"

    def start(self, job: Job) -> None:
        """Hand a job over, and see to it that it ends at its deadline whatever the executor does."""
        if not self.jobs:
            self.on_first()
        self.jobs[job.number] = job
        heappush(self._deadlines, (job.ends_at, job.number))
        if job.ends_at < self._rings_at:
            self._set_timer(job.ends_at)
        job.started_among = self._slots.occupy(job.query.lane, job.started_at)
        self._executor.submit(job)

    def _set_timer(self, at: float) -> None:
        """One for all: nearly every job ends long before, and one of its own costs it more than this."""
        if self._timer is not None:
            self._timer.cancel()
        self._rings_at = at
        self._timer = asyncio.get_running_loop().call_at(at, self._at_deadline)

    def _at_deadline(self) -> None:
        """End those whose time is up, and wait for the next one that runs."""
        self._timer, self._rings_at = None, inf
        deadlines, now = self._deadlines, asyncio.get_running_loop().time()
        try:
            while deadlines and (deadlines[0][0] <= now or deadlines[0][1] not in self.jobs):
                job = self.jobs.get(heappop(deadlines)[1])
                if job is not None:
                    self._executor.cancel(job)
                    self._end(job)
        finally:  # whatever is wrong with one of them, the others have theirs
            if deadlines and deadlines[0][0] < self._rings_at:
                self._set_timer(deadlines[0][0])

    def finished(self, job: Job) -> None:
        """The executor has no more to do for *job* (its ``on_finished``)."""
        if job.ended:
            self._observer.came_late()
        else:
            self._end(job)

    def _end(self, job: Job) -> None:
        job.end()
        now = asyncio.get_running_loop().time()
        conclusion = conclude(job.trail, job.plan, started_at=job.started_at, ends_at=job.ends_at, now=now)
        self._learn(job, conclusion, now)
        del self.jobs[job.number]
        if len(self._deadlines) > FORGET_AT + 2 * len(self.jobs):
            self._deadlines[:] = [(one.ends_at, one.number) for one in self.jobs.values()]
            heapify(self._deadlines)
        self._slots.release(job.query.lane)
        self.on_ended(job, conclusion, now)

    def _learn(self, job: Job, conclusion: Conclusion, now: float) -> None:
        superseded = _followed(job.trail.superseded, conclusion) if job.trail.superseded else []
        disturbed_at = -inf if job.culprit else max(job.held_at, self._policies.disturbed_at)
        self._policies.lane(job.query.lane).concluded(conclusion, superseded, now, disturbed_at=disturbed_at)
        if superseded:
            self._observer.failed_over(job.query.lane, len(superseded))
        late = conclusion.status is _TIMED_OUT
        whole = conclusion.budget_s >= job.plan.total_s - CLOCK_SLACK_S
        if conclusion.status is _SUCCEEDED or (late and (whole or self._slots.waiting)):
            self._learn_limit(job, conclusion, now)

    def _learn_limit(self, job: Job, conclusion: Conclusion, now: float) -> None:
        """Where queries wait for slots, time that ran out counts even if part of it was spent waiting."""
        change = self._slots.learn(
            now,
            duration_s=conclusion.duration_s,
            started_among=job.started_among,
            dropped=conclusion.status is _TIMED_OUT,
        )
        if change is not None:
            self._observer.control_changed(change)


def _followed(superseded: Sequence[StageRun], conclusion: Conclusion) -> list[StageRun]:
    """The attempts that others followed.

    The last one is among the runs where none was begun after it; a worker process has then told it twice.
    """
    ended = {(run.spec.sequence, run.attempt) for run in conclusion.runs}
    return [run for run in superseded if (run.spec.sequence, run.attempt) not in ended]
