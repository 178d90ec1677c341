"""Which jobs run in one place, and which have left it while their code runs on."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, NamedTuple

from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.executor import OnFinished


class Leftover(NamedTuple):
    """Code of a job that ended, or went on elsewhere."""

    number: int
    """The job's."""
    name: str
    """The node or stage whose code it is."""
    since: float
    """Monotonic seconds."""
    excused: bool = False
    """It only waited here: what it still does, if anything, is to clean up."""


class JobRegistry:
    """The books of one place where jobs run. Used from the bus loop."""

    def __init__(self, on_finished: OnFinished) -> None:
        self._on_finished = on_finished
        self.jobs: dict[StageHistory, Job] = {}
        """The jobs that run here."""
        self.left: dict[StageHistory, Leftover] = {}
        """The code of those that ended, or went on elsewhere, that has not ended here."""
        self.turned_at = -inf
        """A time after which the loop has turned (monotonic seconds)."""

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        return f"<JobRegistry {len(self.jobs)} running, {len(self.left)} left>"

    def place(self, job: Job) -> None:
        """A job runs here from now on."""
        self.jobs[job.history] = job

    def leave(self, job: Job, now: float) -> None:
        """A job ends, or goes on elsewhere: its trail is closed, so the end of its code says nothing."""
        job.history.closed = True
        if self.jobs.pop(job.history, None) is not None:
            running = job.history.running or job.history.waiting
            name = "" if running is None else running.node or str(running.spec.stage_type)
            self.left[job.history] = Leftover(job.number, name, now)

    def excuse(self, job: Job, now: float) -> None:
        """A job that left was only waiting here: its code need not end before the loop turns."""
        left = self.left.get(job.history)
        if left is not None:
            self.left[job.history] = left._replace(since=now, excused=True)

    def abandoned(self, number: int, thread: tuple[int, int] | None) -> list[Abandoned]:
        """The code of jobs that left and that runs on.

        Code that a busy loop has not got round to cancel does not count: the loop must have turned since.

        Args:
            number: The job whose code has control now; 0 = none.
            thread: The loop's, which the code that has control keeps.
        """
        return [
            Abandoned(one.name, one.since, thread if one.number == number else None)
            for one in self.left.values()
            if one.number == number or one.since < self.turned_at
        ]

    def hold_all_but(self, number: int, now: float) -> None:
        """A step of job *number* keeps the loop (0 = other code): the others that left wait for it.

        Their time counts from when the loop turns again, unless it has turned since they left.
        """
        for history, left in self.left.items():
            if left.number != number and left.since >= self.turned_at:
                self.left[history] = left._replace(since=now)

    def knows(self, number: int) -> bool:
        """Whether the job of that number runs here, or has left while its code has not ended."""
        here = any(job.number == number for job in self.jobs.values())
        return here or any(left.number == number for left in self.left.values())

    def done(self, job: Job, history: StageHistory, completed: bool) -> None:  # noqa: FBT001 - see JobHost
        """Nothing of a job runs here any more; *completed* tells whether it came to its end."""
        left = self.left.pop(history, None)
        late = left is not None and not left.excused and job.ended
        waited_for = self.jobs.pop(history, None) is not None
        if completed and (waited_for or late):
            self._on_finished(job)

    def blocking(self, number: int) -> Job | None:
        """The job of that number whose code has control, if it runs here.

        It does not where its code has control and it has left, even if it has come back to wait here.
        """
        if any(left.number == number for left in self.left.values()):
            return None
        return next((job for job in self.jobs.values() if job.number == number), None)
