"""Settings of the interpreter for processes that must keep deadlines: the main process and the workers."""

from __future__ import annotations

import gc
import sys
from typing import Final

GC_THRESHOLD: Final = 5_000
"""New objects between two collections of the youngest generation; a few queries reach Python's 700."""
SWITCH_INTERVAL_S: Final = 0.0005
"""Seconds that a thread may keep the interpreter. With Python's 5 ms a node that spins delays deadlines."""
YIELDING_INTERVAL_S: Final = 0.005
"""The same while all code soon gives control back by itself: longer turns cost less."""
CROWDED_INTERVAL_S: Final = 0.0001
"""The same while abandoned code runs, which may spin; costs a few per cent of throughput."""


def share_the_interpreter() -> None:
    """Set SWITCH_INTERVAL_S, so that threads switch often enough to keep deadlines."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class SwitchInterval:
    """Adapts the switch interval to the code that runs now."""

    def __init__(self) -> None:
        self._before_s: float | None = None

    def choose(self, *, crowded: bool, shared: bool) -> None:
        """Choose an interval.

        Args:
            crowded: Abandoned code runs, which may spin.
            shared: A thread runs code that may keep the interpreter.
        """
        if self._before_s is None:
            self._before_s = sys.getswitchinterval()
        usual_s = SWITCH_INTERVAL_S if shared else YIELDING_INTERVAL_S
        sys.setswitchinterval(CROWDED_INTERVAL_S if crowded else usual_s)

    def restore(self) -> None:
        """Restore the interval from before the first choice."""
        if self._before_s is not None:
            sys.setswitchinterval(self._before_s)
            self._before_s = None


def freeze_gc() -> None:
    """Exclude existing objects from garbage collection, which would also copy their pages into every fork."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
