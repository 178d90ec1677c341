"""Settings of the interpreter for processes that must keep deadlines: the main process and the workers."""

from __future__ import annotations

import gc
import sys
import threading
import time
from math import inf
from typing import TYPE_CHECKING, ClassVar, Final

if TYPE_CHECKING:
    from collections.abc import Callable

GC_THRESHOLD: Final = 5_000
"""New objects between two collections of the youngest generation; a few queries reach Python's 700."""
SWITCH_INTERVAL_S: Final = 0.0005
"""Seconds that a thread may keep the interpreter. With Python's 5 ms a node that spins delays deadlines."""
YIELDING_INTERVAL_S: Final = 0.005
"""The same while several threads keep the interpreter busy and all code soon gives control back by itself:
longer turns cost less. Otherwise they would only delay what each turn of a query waits for."""
BUSY, STILL_BUSY = 0.96, 0.92
"""The CPU of one core that the process uses from which it is busy, and below which it is so no more."""
MIN_OTHERS = 0.15
"""The least share of that CPU that other threads than the bus must use. They use less where the bus rejects
most queries: queries that run would keep their slots for longer, waiting for a turn."""
BUSY_WINDOW_S: Final = 0.05
"""Least seconds over which that is measured."""
_YIELDING_THREADS: Final = ("MainThread", "fivestage-", "Otel", "asyncio-waitpid")
"""How the names of threads begin that do not compute for long: the service's, and the exporter's of spans."""
CROWDED_INTERVAL_S: Final = 0.0001
"""The same while abandoned code runs, which may spin; costs a few per cent of throughput."""


def share_the_interpreter() -> None:
    """Set SWITCH_INTERVAL_S, so that threads switch often enough to keep deadlines."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)


class InterpreterUse:
    """Measures whether several threads of this process use the interpreter nearly all the time.

    A process that gets less CPU than it could use, because of a quota or of other processes, is not busy.

    Args:
        cpu_clock: Returns the CPU seconds of this process.
        bus_clock: Returns the CPU seconds of the thread that asks, which is that of the bus.
    """

    def __init__(
        self,
        cpu_clock: Callable[[], float] = time.process_time,
        bus_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._cpu_clock, self._bus_clock = cpu_clock, bus_clock
        self._bus_s, self._cpu_s = bus_clock(), cpu_clock()
        self._since = -inf
        self._is_busy = False

    def is_busy(self, now: float) -> bool:
        """Return whether several threads kept the interpreter busy in the last window.

        Call this more often than each BUSY_WINDOW_S.
        """
        took_s = now - self._since
        if took_s >= BUSY_WINDOW_S:
            bus_before_s, cpu_before_s = self._bus_s, self._cpu_s
            self._bus_s, self._cpu_s = self._bus_clock(), self._cpu_clock()
            bus_s, cpu_s = self._bus_s - bus_before_s, self._cpu_s - cpu_before_s
            least_s = took_s * (STILL_BUSY if self._is_busy else BUSY)
            self._is_busy = cpu_s >= least_s and cpu_s - bus_s >= MIN_OTHERS * cpu_s
            self._since = now
        return self._is_busy


class SwitchInterval:
    """Adapts the switch interval of this process to the code that runs now; several executors may do so."""

    _wished: ClassVar[dict[SwitchInterval, float]] = {}
    """What each of them has chosen, in seconds: the shortest counts."""
    _before_s: ClassVar[float] = SWITCH_INTERVAL_S

    def __init__(self) -> None:
        self.is_long = False
        """Whether the choice is YIELDING_INTERVAL_S."""

    def choose(self, *, crowded: bool, shared: bool, busy: bool) -> None:
        """Choose an interval, in force until the next choice.

        Args:
            crowded: Abandoned code runs, which may spin.
            shared: Code runs that may keep the interpreter for as long as it is let.
            busy: See InterpreterUse.
        """
        self.is_long = busy and not (crowded or shared or _has_other_threads())
        usual_s = YIELDING_INTERVAL_S if self.is_long else SWITCH_INTERVAL_S
        if not self._wished:
            SwitchInterval._before_s = sys.getswitchinterval()
        self._wished[self] = CROWDED_INTERVAL_S if crowded else usual_s
        sys.setswitchinterval(min(self._wished.values()))

    def restore(self) -> None:
        """Choose nothing any more; the last one restores the interval from before the first choice."""
        if self._wished.pop(self, None) is not None:
            sys.setswitchinterval(min(self._wished.values(), default=self._before_s))


def _has_other_threads() -> bool:
    """Whether the app has threads of its own, which may compute."""
    return any(not one.name.startswith(_YIELDING_THREADS) for one in threading.enumerate())


def freeze_gc() -> None:
    """Exclude existing objects from garbage collection, which would also copy their pages into every fork."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 10, 10)
