"""Distinguishes an event loop that is blocked from one that is busy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.executors.executor import TICK_S

if TYPE_CHECKING:
    from fivestage.pipeline.step_monitor import StepMonitor

OUTSIDE_LIMIT_S: Final = 0.1
"""Seconds: the least limit for code outside of any stage, whose blocking shows only as an unanswered ping."""
SLACK_S: Final = TICK_S / 2
"""Seconds taken off each limit: checks are not exactly TICK_S apart."""
IN_STAGE: Final = "a stage did not give control back"
OUTSIDE: Final = "code outside of any stage did not give control back"


class StallDetector:
    """Compares what a worker's monitor shows every TICK_S with what it showed before.

    A worker that is busy with many queries goes from step to step; a stalled one shows the same step in every
    check.

    Args:
        monitor: The worker's monitor.
        limit_s: Seconds that one step may take.
    """

    def __init__(self, monitor: StepMonitor, limit_s: float) -> None:
        self._monitor = monitor
        self._limit_s = limit_s - SLACK_S
        self._outside_limit_s = max(limit_s, OUTSIDE_LIMIT_S) - SLACK_S
        self._seen = (0, 0)
        self.stalled_s = 0.0
        """Seconds that the monitor has shown the same step."""
        self.may_be_stalled = False
        """The last two checks or more have seen the same step, but not for long enough to be a stall."""

    def check(self, *, answering: bool, elapsed_s: float) -> str | None:
        """Check once; return why the worker is stalled, once that is certain.

        Args:
            answering: The worker has answered the last ping.
            elapsed_s: Seconds since the last check that count: 0 if this process itself got no CPU.
        """
        seen = self._monitor.seen()
        if seen != self._seen or (not seen[0] and answering):
            self._seen, self.stalled_s, self.may_be_stalled = seen, 0.0, False
            return None
        self.stalled_s += elapsed_s
        limit_s, why = (self._limit_s, IN_STAGE) if seen[0] else (self._outside_limit_s, OUTSIDE)
        self.may_be_stalled = self.stalled_s < limit_s
        return None if self.may_be_stalled else why
