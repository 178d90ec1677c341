"""The port between the bus and user code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fivestage.core.job import Job

STUCK_AFTER_S = 10.0
OnFinished = Callable[[Job], None]
"""Called on the bus loop when the executor has no more to do for a job."""


class Executor(Protocol):
    """Runs jobs. Every method is called on the bus loop and none may block it.

    The bus ends a job at its deadline by itself, so an executor may be late, or never answer.
    """

    async def start(self, on_finished: OnFinished) -> None:
        """Get ready for jobs.

        Args:
            on_finished: Called once per job whose stages have ended; not for a job that was cancelled.
        """

    def submit(self, job: Job) -> None:
        """Begin *job* soon; its trail grows as its stages end."""

    def cancel(self, job: Job) -> None:
        """Stop working on *job*: it has ended. It may take its time, or never stop."""

    async def stop(self, timeout_s: float) -> None:
        """Give up all jobs and end, within *timeout_s* seconds; what is stuck is left behind."""

    def ping(self) -> None:
        """Ask for a sign of life; see ``lag_s``."""

    def lag_s(self, now: float) -> float:
        """How long the oldest ping has been waiting for its answer; 0 when none is."""

    @property
    def last_lag_s(self) -> float:
        """How long the last answered ping took."""

    @property
    def failure(self) -> str | None:
        """Why no job will be run any more; None while all is well."""

    @property
    def abandoned(self) -> int:
        """Jobs that were cancelled and have not stopped yet, on loops and in threads."""

    def stuck(self, now: float) -> int:
        """Those of them that have not stopped for STUCK_AFTER_S: slow code comes back, they do not."""
