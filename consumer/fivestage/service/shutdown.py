"""Bounds the shutdown: its steps share one time limit, and then the process ends, whatever hangs in it.

``service`` begins it, on a signal or a failure, and calls the steps.

Two guards end the process. The first is a thread, which logs and exits with the exit code that was due. It
needs the interpreter; the second, the C thread of ``faulthandler``, works even while a C function holds the
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
"""How long the first guard may take to write its log line."""

log = structlog.get_logger("fivestage.service.shutdown")


class TimeLeft:
    """Shares the time for shutdown among its steps.

    A step gets its own limit, or half of what is left: however many steps hang, the whole ends in time, and
    the last ones get something too.

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
        """Return how long a step may take that wants *most_s*, and leaves others *leaving_s* at most."""
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
        self._nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        # Written to nowhere: a standard error that is not read would block it.
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
