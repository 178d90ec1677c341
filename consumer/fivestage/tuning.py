"""How the interpreter is set for a process that must keep deadlines: the bus, and every worker process."""

from __future__ import annotations

import gc
import sys
from typing import Final

GC_THRESHOLD: Final = 5_000
"""Objects between two collections of the youngest; Python's default of 700 is a handful of queries."""
SWITCH_INTERVAL_S: Final = 0.0005
"""A node that spins in Python shares the interpreter with deadlines; the default of 5 ms starves them."""


def share_the_interpreter() -> None:
    """Let threads take turns often enough for deadlines."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


def spare_what_is_there() -> None:
    """Collect less: what is there now stays, and looking at it would also copy its pages into every fork."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
