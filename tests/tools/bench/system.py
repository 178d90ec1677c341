"""The operating system's figures of processes."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS = os.sysconf("SC_CLK_TCK")
SESSION, ENDED_CHILDREN = 3, slice(13, 15)
"""Their fields in /proc/PID/stat after the command's name."""


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far, to the nanosecond.

    The clock is the one that ``clock_getcpuclockid(3)`` returns: the ticks of /proc are 10 ms.
    """
    return time.clock_gettime(~pid << 3 | 2)


def session_cpu_seconds(leader: int) -> float:
    """Return user and system time so far of all processes of a session, ended ones included."""
    found = 0.0
    for pid in session(leader):
        with contextlib.suppress(OSError):  # it has just ended
            found += cpu_seconds(pid) + sum(map(int, _stat(pid)[ENDED_CHILDREN])) / TICKS
    return found


def session_peak_mb(leader: int) -> float:
    """Return the sum of the peak resident memory of a session's processes; shared memory counts for each."""
    kilobytes = 0
    for pid in session(leader):
        with contextlib.suppress(OSError):
            kilobytes += _status_kb(pid, "VmHWM")
    return kilobytes / 1024


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process now."""
    return _status_kb(pid, "VmRSS") / 1024


def peak_mb(pid: int) -> float:
    """Return the highest resident memory of a process so far."""
    return _status_kb(pid, "VmHWM") / 1024


def session(leader: int) -> Iterator[int]:
    """Return the processes of the session that *leader* started."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(_stat(int(path.name))[SESSION]) == leader:
                yield int(path.name)


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _status_kb(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) for line in status.splitlines() if line.startswith(name + ":")), 0)
