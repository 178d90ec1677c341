"""Settings of the interpreter for processes that must keep deadlines: the main process and the workers."""

from __future__ import annotations

import gc
import sys
from typing import Final

GC_THRESHOLD: Final = 5_000
"""New objects between two collections of the youngest generation; a few queries reach Python's 700."""
SWITCH_INTERVAL_S: Final = 0.0005
"""Seconds that a thread may keep the interpreter. With Python's 5 ms a node that spins delays deadlines."""
CROWDED_INTERVAL_S: Final = 0.0001
"""The same while abandoned code runs, which may spin; costs a few per cent of throughput."""


def share_the_interpreter() -> None:
    """Set SWITCH_INTERVAL_S, so that threads switch often enough to keep deadlines."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class SwitchInterval:
    """Shortens the switch interval while abandoned code runs, which may spin."""

    def __init__(self) -> None:
        self._usual_s: float | None = None

    def set_short(self, *, short: bool) -> None:
        """Shorten the switch interval, or restore it."""
        if short and self._usual_s is None:
            self._usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(self._usual_s, CROWDED_INTERVAL_S))
        elif not short and self._usual_s is not None:
            sys.setswitchinterval(self._usual_s)
            self._usual_s = None


def freeze_gc() -> None:
    """Exclude existing objects from garbage collection, which would also copy their pages into every fork."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
