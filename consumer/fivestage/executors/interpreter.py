"""How the interpreter is set for a process that must keep deadlines: the bus, and every worker process."""

from __future__ import annotations

import gc
import sys
from typing import Final

GC_THRESHOLD: Final = 5_000
"""Objects between two collections of the youngest; Python's default of 700 is a handful of queries."""
SWITCH_INTERVAL_S: Final = 0.0005
"""A node that spins in Python shares the interpreter with deadlines; the default of 5 ms starves them."""
CROWDED_INTERVAL_S: Final = 0.0001
"""The same where many threads may be spinning; it costs a few per cent of throughput."""


def share_the_interpreter() -> None:
    """Let threads take turns often enough for deadlines."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class Crowding:
    """Lets threads take turns more often while some run code that nothing waits for, and that may spin."""

    def __init__(self) -> None:
        self._usual_s: float | None = None

    def __repr__(self) -> str:
        return f"<Crowding {'over' if self._usual_s is None else 'now'}>"

    def set(self, *, crowded: bool) -> None:
        """Say whether there is such code now."""
        if crowded and self._usual_s is None:
            self._usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(self._usual_s, CROWDED_INTERVAL_S))
        elif not crowded and self._usual_s is not None:
            sys.setswitchinterval(self._usual_s)
            self._usual_s = None


def freeze_gc() -> None:
    """Collect less: what is there now stays, and looking at it would also copy its pages into every fork."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
