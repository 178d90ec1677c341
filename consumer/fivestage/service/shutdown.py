"""Bounds the shutdown: its steps share one time limit, after which the process ends, whatever hangs.

``service`` begins the shutdown, on a signal or a failure, and calls its steps.

Two guards end the process. The first is a thread, which logs and exits with the exit code of the failure; it
needs the interpreter. The second, the C thread of ``faulthandler``, works even while a C function holds the
interpreter's lock or the log cannot be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import sys
import threading
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fivestage.errors import ConfigurationError, InvalidAppError

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_WORDS_S = 2.0
"""Seconds that the first guard may take to log and exit."""

log = structlog.get_logger("fivestage.service.shutdown")


class TimeLeft:
    """Shares the time for shutdown among its steps.

    A step gets its own limit, or at most half of the time left, or more if that leaves enough: however many
    steps hang, all end in time, and the last ones still get some time.

    Args:
        limit_s: How long all steps together may take, from ``begin`` on.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends_at: float | None = None

    def __repr__(self) -> str:
        return f"<TimeLeft limit_s={self._limit_s} ends_at={self._ends_at}>"

    def begin(self) -> None:
        """Start the clock."""
        self._ends_at = asyncio.get_running_loop().time() + self._limit_s

    def share(self, most_s: float, *, leaving_s: float = inf) -> float:
        """Return how long a step may take: *most_s*, or less to leave half of the time, or *leaving_s*."""
        if self._ends_at is None:
            return most_s
        left_s = max(0.0, self._ends_at - asyncio.get_running_loop().time())
        return min(most_s, max(left_s / 2, left_s - leaving_s))


class HardEnd:
    """Ends the process unless the orderly shutdown is done in time.

    Args:
        limit_s: How long the orderly shutdown may take.
        code: Returns the exit code for a process that is ended by force.
    """

    def __init__(self, limit_s: float, code: Callable[[], int]) -> None:
        self._limit_s = limit_s
        self._code = code
        self._done = threading.Event()
        self._nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - stays open
        # To the null device: a full pipe as standard error would block the dump.
        faulthandler.dump_traceback_later(limit_s + LAST_WORDS_S, exit=True, file=self._nowhere)
        threading.Thread(target=self._guard, name="fivestage-hard-end", daemon=True).start()

    def _guard(self) -> None:
        if self._done.wait(self._limit_s):
            return
        log.error("shutdown took too long", limit_s=self._limit_s)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(self._code())

    def cancel(self) -> None:
        """Disarm both guards: the orderly shutdown is done."""
        self._done.set()
        faulthandler.cancel_dump_traceback_later()


def exit_code(failure: Exception | None) -> int:
    """Return 0 for no failure, 2 if something must be configured first, 1 for everything else."""
    if failure is None:
        return 0
    return 2 if isinstance(failure, ConfigurationError | InvalidAppError) else 1
