"""Which jobs are placed somewhere, and which have left without their code having stopped."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage.threads import Abandoned

if TYPE_CHECKING:
    from fivestage.core.job import Job
    from fivestage.core.trail import Trail
    from fivestage.executors.port import OnFinished


class Roster:
    """The books of one place where jobs run. Used from the bus loop."""

    def __init__(self, on_finished: OnFinished) -> None:
        self._on_finished = on_finished
        self.jobs: dict[Trail, Job] = {}
        """The jobs that run here and are waited for."""
        self.left: dict[Trail, Abandoned] = {}
        """Those that ended or went elsewhere while their code here runs on."""

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        return f"<Roster {len(self.jobs)} running, {len(self.left)} left>"

    def place(self, job: Job) -> None:
        """A job runs here from now on."""
        self.jobs[job.trail] = job

    def leave(self, job: Job, now: float) -> None:
        """Nobody waits for a job here any more: its trail is closed, so the end of its code says nothing."""
        job.trail.closed = True
        if self.jobs.pop(job.trail, None) is not None:
            running = job.trail.running
            name = "" if running is None else running.node or str(running.spec.stage_type)
            self.left[job.trail] = Abandoned(name, now)

    def forgive(self, job: Job) -> None:
        """A job that left was only caught here: its code is not to blame for running on."""
        self.left.pop(job.trail, None)

    def blame(self, culprit: Job | None) -> None:
        """A step of *culprit* holds the worker: those that have left were caught behind it, none is to blame.

        Where the culprit is not known it may be one of them, and all stay on the list.
        """
        if culprit is not None:
            self.left.clear()

    def done(self, job: Job, trail: Trail, completed: bool) -> None:  # noqa: FBT001 - see JobHost
        """Nothing of a job runs here any more; *completed* tells whether it came to its end."""
        self.left.pop(trail, None)
        waited_for = self.jobs.pop(trail, None) is not None
        if completed and (waited_for or job.ended):
            self._on_finished(job)

    def find(self, number: int) -> Job | None:
        """The job of that number, if it runs here and is waited for."""
        return next((job for job in self.jobs.values() if job.number == number), None)
