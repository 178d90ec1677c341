"""A fake executor that runs no code: tests decide when a job ends, hangs or waits for a thread."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from fivestage.core.stage_history import RunningStage, StageRun
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.job import Job
    from fivestage.executors import OnFinished


class Puppets:
    """See Executor.

    Args:
        on_submitted: Called with each job that is submitted, for the first time or again.
    """

    lag_s, failure, unready = 0.0, None, None

    def __init__(self, on_submitted: Callable[[Job], None]) -> None:
        self._on_submitted = on_submitted
        self._on_finished: OnFinished = lambda _job: None
        self.jobs: list[Job] = []
        """Jobs whose stages have not ended, oldest first; their queries may have ended."""

    async def start(self, on_finished: OnFinished) -> None:
        self._on_finished = on_finished

    def submit(self, job: Job) -> None:
        self._on_submitted(job)
        if job not in self.jobs:
            self.jobs.append(job)

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
        self.jobs.remove(job)
        if not job.history.closed:
            for spec in job.plan.stages[len(job.history.runs) :]:
                failed = fails and spec.stage_type is StageType.PROCESSING
                outcome = Outcome.ERROR if failed else Outcome.SUCCESS
                job.history.finish(StageRun(spec, outcome, b"1", started_at=job.started_at))
                if failed:
                    break
            job.history.answer_json = b"1"
        self._on_finished(job)

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
