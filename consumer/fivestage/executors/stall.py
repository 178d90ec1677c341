"""Telling a loop that is held up from one that has much to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fivestage.executors.port import TICK_S

if TYPE_CHECKING:
    from fivestage.bounded import StepMonitor

OUTSIDE_PATIENCE_S = 0.1
"""For code that runs outside of any stage, where there is no step to look at, only an answer to wait for."""


class StallDetector:
    """Looks at a worker's monitor every TICK_S.

    A worker that computes much for many queries goes from step to step; one that is held up shows the same
    step look after look. Only looks count that came when they were due: a process that got no CPU for a while
    must not hold that against its workers.

    Args:
        monitor: The worker's.
        patience_s: How long one step may take.
    """

    def __init__(self, monitor: StepMonitor, patience_s: float) -> None:
        self._monitor = monitor
        self._patience = max(1, round(patience_s / TICK_S))
        self._outside_patience = max(self._patience, round(OUTSIDE_PATIENCE_S / TICK_S))
        self._seen = (0, 0)
        self._looks = 0

    def __repr__(self) -> str:
        return f"<StallDetector {self._seen} for {self._looks} looks>"

    def look(self, *, answering: bool, count: bool) -> str | None:
        """Look once; why the worker is held up, once that is sure.

        Args:
            answering: It has answered the last ping.
            count: Whether this look came when it was due.
        """
        seen = self._monitor.seen()
        if seen != self._seen or (not seen[0] and answering):
            self._seen, self._looks = seen, 0
            return None
        self._looks += count
        if seen[0] and self._looks >= self._patience:
            return "a stage did not give control back"
        if self._looks >= self._outside_patience:
            return "code outside of any stage did not give control back"
        return None
