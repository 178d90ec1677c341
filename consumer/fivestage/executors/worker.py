"""The interface of a worker, one event loop in a thread or in a process, and what both kinds share."""

from __future__ import annotations

import time
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, Protocol

from fivestage.core.job import Job
from fivestage.executors.job_registry import JobRegistry
from fivestage.executors.stall_detector import StallDetector
from fivestage.pipeline.thread_pool import Abandoned

if TYPE_CHECKING:
    from fivestage.executors.executor import OnFinished
    from fivestage.pipeline.step_monitor import StepMonitor


class ReplacementReason(StrEnum):
    """Why a worker is replaced. A label of a metric: the text of an error must not become one."""

    PROCESS_ENDED = "its process has ended"
    THREAD_ENDED = "its thread has ended"
    NOT_OPEN = "its resources did not open"
    NOT_READY = "its process was not ready in time"
    BLOCKED = "code of no query blocks its event loop"
    RUNS_ON = "code of ended queries runs on"
    COMPUTES_ON = "code of ended queries computes on"


class Worker(Protocol):
    """Runs jobs on one event loop. Every method is called on the bus loop and must not block it."""

    @property
    def registry(self) -> JobRegistry:
        """The jobs that run here."""

    @property
    def ready(self) -> bool:
        """Whether jobs start at once; before that they wait in the worker."""

    def start(self, job: Job) -> None:
        """Start a job at the stage where its history ends."""

    def cancel(self, job: Job) -> None:
        """Cancel a job; its code may run on."""

    def refresh(self) -> None:
        """Bring the histories of the jobs up to date; see Executor."""

    def check(self, now: float, *, elapsed_s: float) -> str | None:
        """Check the event loop; return why it is stalled, once that is certain. None if the worker has ended.

        Args:
            now: Monotonic seconds.
            elapsed_s: Seconds since the last check that count towards a stall.
        """

    @property
    def lag_s(self) -> float:
        """Seconds that the last ping took to be answered, or has been unanswered."""

    @property
    def stalled_s(self) -> float:
        """Seconds that the loop has shown no progress, as of the last check."""

    def needs_replacement(self, now: float) -> ReplacementReason | None:
        """Return why the worker must be replaced before it ends; None if it need not be."""

    @property
    def blocking(self) -> tuple[int, Job | None]:
        """The number of the job whose code is executing (0 = none), and that job if it still runs here."""

    @property
    def thread(self) -> tuple[int, int] | None:
        """The process id and the kernel's thread id that the loop runs in; None before there is a process."""

    def location(self) -> str | None:
        """Return the line of code that is executing; None if unknown."""

    def end(self, now: float) -> None:
        """End the worker, by force where possible; called repeatedly until it is gone."""

    @property
    def gone(self) -> bool:
        """Whether the worker has ended."""

    @property
    def end_reason(self) -> ReplacementReason:
        """Why the worker has ended, once it is gone."""

    @property
    def error(self) -> str | None:
        """Why its resources could not be opened, with the author's error, for the log; None if they could."""

    def abandoned(self) -> list[Abandoned]:
        """Return the code that still runs here of jobs that have ended or moved."""


class LoopWorker:
    """What workers in threads and in processes share: pings, stall detection, the job that blocks.

    Args:
        on_finished: See Executor.
        monitor: Shows whose code is executing.
        stall_s: Seconds that one step of user code may take.
    """

    def __init__(self, on_finished: OnFinished, monitor: StepMonitor, stall_s: float) -> None:
        self.registry = JobRegistry(on_finished)
        self._monitor = monitor
        self._stall = StallDetector(monitor, stall_s)
        self._pinged_at: float | None = None
        """When the last ping was sent; None if it was answered."""
        self._last_lag_s = 0.0

    def refresh(self) -> None:
        """See Worker. Histories of this process are always up to date."""

    @property
    def lag_s(self) -> float:
        """See Worker."""
        pinged_at = self._pinged_at
        return self._last_lag_s if pinged_at is None else time.monotonic() - pinged_at

    @property
    def stalled_s(self) -> float:
        """See Worker."""
        return self._stall.stalled_s

    @property
    def blocking(self) -> tuple[int, Job | None]:
        """See Worker."""
        number, _ = self._monitor.seen()
        return number, self.registry.blocking(number) if number else None

    def _on_pong(self) -> None:
        """Record that the loop has answered the ping; a thread's loop calls this itself."""
        pinged_at = self._pinged_at
        if pinged_at is not None:
            self._last_lag_s = time.monotonic() - pinged_at
            self.registry.responsive_at = pinged_at
            self._pinged_at = None


class Stall(NamedTuple):
    """A stalled worker's state."""

    since: float
    """Monotonic seconds."""
    job: Job | None
    """The job whose code is executing; None if that job has ended, or if other code is executing."""
    other: Abandoned | None
    """The code that is executing, if it belongs to no job."""
    about: Mapping[str, str | None]
    """Whose code is executing, as fields of log lines."""
    is_logged: bool
    """Its begin was logged."""
