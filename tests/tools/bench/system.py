"""The operating system's figures of processes."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

TICKS = os.sysconf("SC_CLK_TCK")
SESSION, OWN_TIMES, ALL_TIMES = 3, slice(11, 13), slice(11, 15)
"""Their fields in /proc/PID/stat after the command's name; all times include ended children."""


def cpu_seconds(pid: int) -> float:
    """Return user and system time of a process so far."""
    return sum(map(int, _stat(pid)[OWN_TIMES])) / TICKS


def session_cpu_seconds(leader: int) -> float:
    """Return user and system time so far of all processes of a session, ended ones included."""
    ticks = 0
    for pid in session(leader):
        with contextlib.suppress(OSError):  # it has just ended
            ticks += sum(map(int, _stat(pid)[ALL_TIMES]))
    return ticks / TICKS


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
