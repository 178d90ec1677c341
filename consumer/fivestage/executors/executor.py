"""The port between the bus and user code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Protocol

from fivestage.core.job import Job

if TYPE_CHECKING:
    from fivestage.pipeline.thread_pool import Abandoned

TICK_S = 0.01
"""How often ``check`` is called while queries are in flight."""
OnFinished = Callable[[Job], None]
"""Called on the bus loop when the executor has no more to do for a job."""


class Executor(Protocol):
    """Runs jobs. Every method is called on the bus loop and none may block it.

    The bus ends a job at its deadline by itself, so an executor may be late, or never answer.
    """

    async def start(self, on_finished: OnFinished) -> None:
        """Get ready for jobs.

        Args:
            on_finished: Called at most once per job whose stages have ended; for one that was cancelled only
                if it came to its end nevertheless.
        """

    def submit(self, job: Job) -> None:
        """Begin *job* soon, or go on with it where its trail ends; the trail grows as its stages end."""

    def cancel(self, job: Job) -> None:
        """Stop working on *job*: it has ended, or is moved. It may take its time, or never stop."""

    def check(self, now: float) -> bool:
        """Look for code that does not give control back, and see to it that others do not suffer.

        Called every TICK_S. Jobs caught behind such code get ``Job.held_at``, and are moved (``Job.move``)
        when waiting longer would cost them their answer; the job whose code it is gets ``Job.blocking_job``.
        Returns whether such code was found that was not there at the last look.
        """

    async def stop(self, timeout_s: float) -> None:
        """Give up all jobs and end, within *timeout_s* seconds; what is stuck is left behind."""

    @property
    def lag_s(self) -> float:
        """How long user code has kept a loop from turning, as of the last check."""

    @property
    def failure(self) -> str | None:
        """Why no job will be run any more; None while all is well."""

    @property
    def unready(self) -> str | None:
        """Why no job can be run now; None where one can."""

    def abandoned(self) -> Sequence[Abandoned]:
        """Code that runs on although its query has ended, on loops and in threads."""
