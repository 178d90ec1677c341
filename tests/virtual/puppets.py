"""A fake executor that runs no code: tests decide when a job ends, hangs or waits for a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fivestage.core.stage_run import RunningStage, StageRun
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.executors import OnFinished


class Puppets:
    """See Executor.

    Args:
        on_submitted: Called with each job that is submitted, for the first time or again.
        on_enqueued: Called with each job that is enqueued.
        on_started: Called with each enqueued job that starts because another one has completed, and with
            how many ran before that.
    """

    lag_s, failure, unready = 0.0, None, None

    def __init__(
        self,
        on_submitted: Callable[[Job], None],
        on_enqueued: Callable[[Job], None] = lambda _job: None,
        on_started: Callable[[Job, int], None] = lambda _job, _running: None,
    ) -> None:
        self._on_submitted, self._on_enqueued, self._on_started = on_submitted, on_enqueued, on_started
        self._on_finished: OnFinished = lambda _job: None
        self.jobs: list[Job] = []
        """Jobs whose stages have not ended, oldest first; their queries may have ended."""
        self.enqueued: list[Job] = []
        """Jobs that start when others complete, oldest first."""
        self.local_queue = self

    async def start(self, on_finished: OnFinished) -> None:
        self._on_finished = on_finished

    def submit(self, job: Job) -> None:
        self._on_submitted(job)
        if job not in self.jobs:
            self.jobs.append(job)

    def enqueue(self, job: Job) -> None:
        self._on_enqueued(job)
        self.enqueued.append(job)

    def dequeue(self, job: Job) -> bool:
        if job not in self.enqueued:
            return False
        self.enqueued.remove(job)
        return True

    def cancel(self, job: Job) -> None:
        job.history.closed = True

    def refresh(self) -> None:
        pass

    def check(self, _: float) -> bool:
        return False

    async def stop(self, _: float) -> None:
        self.jobs.clear()

    def abandoned(self) -> list[Any]:
        return []

    def end(self, job: Job, *, fails: bool = False) -> None:
        """End all stages of a job: with success, or with an error in the third."""
        before = len(self.running())
        self.jobs.remove(job)
        has_slot = not job.history.closed
        if has_slot:
            for spec in job.plan.stages[len(job.history.runs) :]:
                failed = fails and spec.stage_type is StageType.PROCESSING
                outcome = Outcome.ERROR if failed else Outcome.SUCCESS
                job.history.finish(StageRun(spec, outcome, b"1", started_at=job.started_at))
                if failed:
                    break
            job.history.answer_json = b"1"
        now = asyncio.get_running_loop().time()
        following = next((one for one in self.enqueued if one.due_at > now), None) if has_slot else None
        if following is not None:
            self.enqueued.remove(following)
            following.history.times = (
                now,
                min(now + following.ends_at - following.started_at, following.due_at),
            )
            asyncio.get_running_loop().call_soon(self._start, following, before)
        self._on_finished(job)

    def running(self) -> list[Job]:
        """Return the jobs whose queries have not ended and that wait for no thread."""
        return [job for job in self.jobs if not job.ended and job.waits_since is None]

    def _start(self, job: Job, before: int) -> None:
        """Start an enqueued job: its time starts now."""
        if job.history.closed:
            return
        assert job.watcher is not None
        assert job.history.times is not None
        self._on_started(job, before)
        self.jobs.append(job)
        job.watcher.goes_on(job, job.history, *job.history.times)

    def end_all(self) -> None:
        """End all stages of all jobs."""
        for job in list(self.jobs):
            if job.waits_since is not None:
                self.unpark(job)
            self.end(job)

    def hang(self, job: Job) -> None:
        """Start the job's next stage, which never ends."""
        job.history.start(self._next_stage(job))

    def park(self, job: Job) -> None:
        """Make the job's next stage wait for a thread."""
        assert job.watcher is not None
        job.history.waiting = self._next_stage(job)
        job.watcher.waits(job, job.history, "the pool")

    def unpark(self, job: Job) -> None:
        """Give a thread to a job that waits for one."""
        assert job.watcher is not None
        assert job.waits_since is not None
        waited_s = asyncio.get_running_loop().time() - job.waits_since
        job.history.start(self._next_stage(job))
        started_at, ends_at = job.started_at + waited_s, min(job.ends_at + waited_s, job.due_at)
        job.watcher.goes_on(job, job.history, started_at, ends_at)

    @staticmethod
    def _next_stage(job: Job) -> RunningStage:
        spec = job.plan.stages[len(job.history.runs)]
        return RunningStage(spec, asyncio.get_running_loop().time(), spec.limit_s)
