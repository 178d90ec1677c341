"""Records which jobs run in a worker, and which have left it while their code still runs there."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.executor import OnFinished


class Leftover(NamedTuple):
    """Code of a job that has ended, or has moved to another worker."""

    number: int
    """The job's number."""
    name: str
    """The node or stage whose code it is."""
    since: float
    """Monotonic seconds."""
    only_waited: bool = False
    """The job was only waiting here, so its code does at most some cleaning up."""


class JobRegistry:
    """The jobs of one worker. Used from the bus loop.

    A job that is moved away and back has two stage histories, so jobs are kept by history.

    Args:
        on_finished: See Executor.
    """

    def __init__(self, on_finished: OnFinished) -> None:
        self.on_finished = on_finished
        self.jobs: dict[StageHistory, Job] = {}
        """The jobs that run here."""
        self.left: dict[StageHistory, Leftover] = {}
        """Code of jobs that have ended or moved, until that code has ended here."""
        self.responsive_at = -inf
        """When the last answered ping was sent: the event loop has responded since (monotonic seconds)."""

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        return f"<JobRegistry {len(self.jobs)} running, {len(self.left)} left>"

    def add(self, job: Job) -> None:
        """Record that a job runs here."""
        self.jobs[job.history] = job

    def leave(self, job: Job, now: float) -> None:
        """Record that a job has ended or moves; close its history, so that later writes have no effect."""
        job.history.closed = True
        if self.jobs.pop(job.history, None) is not None:
            running = job.history.running or job.history.waiting
            name = "" if running is None else running.node or str(running.spec.stage_type)
            self.left[job.history] = Leftover(job.number, name, now)

    def forget(self, job: Job) -> None:
        """Remove a job that was not started here."""
        self.jobs.pop(job.history, None)

    def mark_as_waiting(self, job: Job, now: float) -> None:
        """Record that a job that left had only waited here; its code can end only once the loop responds."""
        left = self.left.get(job.history)
        if left is not None:
            self.left[job.history] = left._replace(since=now, only_waited=True)

    def abandoned(self, number: int, thread: tuple[int, int] | None) -> list[Abandoned]:
        """Return the code that still runs of jobs that have left. May be called in another thread.

        Code that a busy loop has not had the time to cancel does not count: the loop must have responded
        since the job left.

        Args:
            number: The job whose code is executing now; 0 = none.
            thread: The loop's thread, which the executing code occupies.
        """
        return [
            Abandoned(one.name, one.since, thread if one.number == number else None)
            for one in list(self.left.values())
            if one.number == number or one.since < self.responsive_at
        ]

    def restart_clocks_except(self, number: int, now: float) -> None:
        """Restart the clock of code that could not end because job *number* (0 = other code) blocks the loop.

        Code that had the chance to end before, because the loop has responded since, keeps its time.
        """
        for history, left in self.left.items():
            if left.number != number and left.since >= self.responsive_at:
                self.left[history] = left._replace(since=now)

    def has_code_of(self, number: int) -> bool:
        """Return whether the job of that number runs here, or has left while its code has not ended."""
        here = any(job.number == number for job in self.jobs.values())
        return here or any(left.number == number for left in self.left.values())

    def done(self, job: Job, history: StageHistory, completed: bool) -> None:  # noqa: FBT001 - see TaskHost
        """Record that a job's code has ended: *completed* its stages, or was cancelled."""
        left = self.left.pop(history, None)
        late = left is not None and not left.only_waited and job.ended
        waited_for = self.jobs.pop(history, None) is not None
        if completed and (waited_for or late):
            self.on_finished(job)

    def blocking(self, number: int) -> Job | None:
        """Return the job of that number if it runs here and its own code is executing.

        None if the executing code is what the job left behind, even if the job has come back and waits here.
        """
        if any(left.number == number for left in self.left.values()):
            return None
        return next((job for job in self.jobs.values() if job.number == number), None)
