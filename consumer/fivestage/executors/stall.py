"""Telling an event loop that does not turn from one that has much to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fivestage.executors.port import TICK_S

if TYPE_CHECKING:
    from fivestage.bounded import StepMonitor

OUTSIDE_PATIENCE_S: Final = 0.1
"""For code that runs outside of any stage, where there is no step to look at, only an answer to wait for."""
IN_STAGE: Final = "a stage did not give control back"
OUTSIDE: Final = "code outside of any stage did not give control back"


class StallDetector:
    """Looks at a worker's monitor every TICK_S.

    A worker that computes much for many queries goes from step to step; a stalled one shows the same step
    look after look. Only looks that come in time count: a process that got no CPU for a while says nothing
    about its workers.

    Args:
        monitor: The worker's.
        patience_s: How long one step may take.
    """

    def __init__(self, monitor: StepMonitor, patience_s: float) -> None:
        self._monitor = monitor
        self._patience = _looks(patience_s)
        self._seen = (0, 0)
        self._looks = 0

    def __repr__(self) -> str:
        return f"<StallDetector {self._seen} for {self._looks} looks>"

    @property
    def stalled_s(self) -> float:
        """How long the same step has been seen, in looks that count."""
        return self._looks * TICK_S

    @property
    def is_suspicious(self) -> bool:
        """The same step was seen at the last two looks, and not yet at three."""
        return self._looks == 1

    def look(self, *, answering: bool, count: bool) -> str | None:
        """Look once; why the worker is stalled, once that is sure.

        Args:
            answering: It has answered the last ping.
            count: Whether this look came when it was due.
        """
        seen = self._monitor.seen()
        if seen != self._seen or (not seen[0] and answering):
            self._seen, self._looks = seen, 0
            return None
        self._looks += count
        if seen[0]:
            return IN_STAGE if self._looks >= self._patience else None
        return OUTSIDE if self._looks >= max(self._patience, _looks(OUTSIDE_PATIENCE_S)) else None


def _looks(seconds: float) -> int:
    return max(1, round(seconds / TICK_S))
