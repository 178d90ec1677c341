"""Measures the CPU that abandoned code uses, and decides whether it is too much.

Without ``/proc``, as on macOS, the CPU of a thread is not known: abandoned code counts by its time alone.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from fivestage.pipeline.thread_pool import Abandoned

MAX_CORES: Final = 0.5
"""Cores that abandoned code may keep busy on average."""
NAMED_SHARE: Final = 0.1
"""A node is named if it used at least this share of the CPU of the node that used most."""
MEASURE_EVERY_S: Final = 0.02
PROC: Final = Path("/proc")
_TICK_S: Final = 1 / os.sysconf("SC_CLK_TCK")
_UTIME: Final = 11
"""The index of the user time among the fields of ``stat`` behind the name; the system time follows it."""


def thread_cpu_s(thread: tuple[int, int]) -> float | None:
    """Return the CPU seconds that a thread has used so far; None if it has ended, or without ``/proc``.

    Read from the file system: asking the C library for the clock of a thread that has ended is undefined.
    """
    process, number = thread
    try:
        stat = (PROC / f"{process}/task/{number}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return (int(fields[_UTIME]) + int(fields[_UTIME + 1])) * _TICK_S


def thread_busy_s(thread: tuple[int, int]) -> float | None:
    """Return the seconds that a thread has computed or waited for a core; None as in ``thread_cpu_s``.

    On a busy machine code that always computes may get less than half a core, so its wait for a core counts
    too. Where the kernel does not keep these figures, only the CPU seconds count.
    """
    process, number = thread
    try:
        found = (PROC / f"{process}/task/{number}/schedstat").read_text(encoding="ascii")
        ran_ns, waited_ns, _ = found.split()
        return (int(ran_ns) + int(waited_ns)) / 1e9
    except (OSError, ValueError):
        return thread_cpu_s(thread)


class SpentCpu:
    """Measures the CPU that each abandoned call has used since it was first seen.

    Args:
        cpu_s: Returns the CPU seconds that a thread has used so far; None for one that has ended.
    """

    def __init__(self, cpu_s: Callable[[tuple[int, int]], float | None] = thread_cpu_s) -> None:
        self._cpu_s = cpu_s
        self._before: dict[tuple[tuple[int, int], float], float] = {}
        self._spent: dict[tuple[tuple[int, int], float], float] = {}
        self._measured_at = 0.0

    def measure(self, calls: Iterable[Abandoned], now: float) -> bool:
        """Measure the calls, at some 20 us a thread; return False if MEASURE_EVERY_S has not passed yet."""
        if now - self._measured_at < MEASURE_EVERY_S:
            return False
        self._measured_at = now
        before, self._before, self._spent = self._before, {}, {}
        for call in calls:
            used_s = None if call.thread is None else self._cpu_s(call.thread)
            if call.thread is not None and used_s is not None:
                key = call.thread, call.since
                self._before[key] = before.get(key, used_s)
                self._spent[key] = used_s - self._before[key]
        return True

    def spent_s(self, call: Abandoned) -> float:
        """Return the CPU seconds of a call, as of the last measurement."""
        return 0.0 if call.thread is None else self._spent.get((call.thread, call.since), 0.0)


class CpuUse:
    """Finds out whether threads together keep more than MAX_CORES busy for a while.

    Counted together, because threads that spin in one process share the interpreter lock: each of ten uses a
    tenth of a core.

    Args:
        limit_s: Seconds that the threads may do so.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._used: dict[tuple[int, int], float] = {}
        self._since: float | None = None
        """When the measurement started; restarted whenever the average since then is below MAX_CORES."""
        self._by_name: dict[str, float] = {}

    def update(self, used: Mapping[tuple[int, int], tuple[str, float | None]], now: float) -> list[str]:
        """Return the names of the nodes whose threads have used too much CPU for limit_s, if any.

        Args:
            used: The node's name, and the CPU seconds so far, of each abandoned thread.
            now: Monotonic seconds.
        """
        before, self._used = self._used, {}
        for thread, (name, cpu_s) in used.items():
            if cpu_s is not None:
                self._used[thread] = cpu_s
                spent_s = cpu_s - before.get(thread, cpu_s)
                self._by_name[name] = self._by_name.get(name, 0.0) + spent_s
        total_s, took_s = sum(self._by_name.values()), 0.0 if self._since is None else now - self._since
        if self._since is None or total_s < MAX_CORES * took_s or not self._used:
            self._since = now
            self._by_name.clear()
            return []
        if took_s < self._limit_s:
            return []
        least_s = NAMED_SHARE * max(self._by_name.values())
        return sorted(name for name, spent_s in self._by_name.items() if spent_s >= least_s)
