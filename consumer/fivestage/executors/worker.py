"""What the fleet needs of a worker: one event loop, in a thread or in a process."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from fivestage.core.job import Job
from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from fivestage.executors.job_registry import JobRegistry


class Worker(Protocol):
    """One place where jobs run. Every method is called on the bus loop and none may block it."""

    @property
    def registry(self) -> JobRegistry:
        """The jobs that run here."""

    @property
    def ready(self) -> bool:
        """It may be given jobs: those that come earlier wait in it."""

    def start(self, job: Job) -> None:
        """Start a job where its trail ends."""

    def cancel(self, job: Job) -> None:
        """Ask a job's code to stop."""

    def look(self, now: float, *, elapsed_s: float) -> str | None:
        """Look whether it turns; why it does not, once that is sure.

        Args:
            now: Monotonic seconds.
            elapsed_s: The time since the last look, as far as it says anything.
        """

    @property
    def lag_s(self) -> float:
        """How long it has not turned, or did not between the last two answers to a look."""

    @property
    def stalled_s(self) -> float:
        """How long it has not turned, as of the last look."""

    def needs_replacement(self, now: float) -> str | None:
        """Why it must be replaced, although it runs."""

    @property
    def blocking(self) -> tuple[int, Job | None]:
        """The number of the job whose code has control (0 = none), and that job if it still runs here."""

    @property
    def thread(self) -> tuple[int, int] | None:
        """The process and the kernel's number of the thread that its loop runs in."""

    def place(self) -> str | None:
        """Where the code is that has control, as far as that can be told."""

    def end(self, now: float) -> None:
        """End it, by force if it can be; called again and again until it is gone."""

    @property
    def gone(self) -> bool:
        """Nothing of it runs any more."""

    def abandoned(self) -> list[Abandoned]:
        """Code of ended jobs that runs on here."""


class Stall(NamedTuple):
    """A worker does not turn."""

    since: float
    """Monotonic seconds."""
    job: Job | None
    """The job whose code has control; None where that job has ended, or where other code has it."""
    other: Abandoned | None
    """The code that has control, where it is no job's."""
