"""Telling an event loop that does not turn from one that has much to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.executors.executor import TICK_S

if TYPE_CHECKING:
    from fivestage.pipeline.step_monitor import StepMonitor

OUTSIDE_PATIENCE_S: Final = 0.1
"""For code that runs outside of any stage, where there is no step to look at, only an answer to wait for."""
SLACK_S: Final = TICK_S / 2
"""Looks are not made to the microsecond."""
IN_STAGE: Final = "a stage did not give control back"
OUTSIDE: Final = "code outside of any stage did not give control back"


class StallDetector:
    """Looks at a worker's monitor every TICK_S.

    A worker that computes much for many queries goes from step to step; a stalled one shows the same step
    look after look.

    Args:
        monitor: The worker's.
        patience_s: How long one step may take.
    """

    def __init__(self, monitor: StepMonitor, patience_s: float) -> None:
        self._monitor = monitor
        self._patience_s = patience_s - SLACK_S
        self._outside_patience_s = max(patience_s, OUTSIDE_PATIENCE_S) - SLACK_S
        self._seen = (0, 0)
        self.stalled_s = 0.0
        """How long the same step has been seen."""
        self.is_suspicious = False
        """The same step was seen at the last two looks, or more, and that is no stall yet."""

    def __repr__(self) -> str:
        return f"<StallDetector {self._seen} for {self.stalled_s:.3f} s>"

    def look(self, *, answering: bool, elapsed_s: float) -> str | None:
        """Look once; why the worker is stalled, once that is sure.

        Args:
            answering: It has answered the last ping.
            elapsed_s: The time since the last look, as far as it says something: a process that got no CPU
                for a while knows nothing about its workers.
        """
        seen = self._monitor.seen()
        if seen != self._seen or (not seen[0] and answering):
            self._seen, self.stalled_s, self.is_suspicious = seen, 0.0, False
            return None
        self.stalled_s += elapsed_s
        patience_s, why = (self._patience_s, IN_STAGE) if seen[0] else (self._outside_patience_s, OUTSIDE)
        self.is_suspicious = self.stalled_s < patience_s
        return None if self.is_suspicious else why
