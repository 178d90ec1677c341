"""The end: its steps share one limit, and when that is over the process is gone, whatever hangs in it.

The hard end has two guards, because the first needs the interpreter: a thread that says so in the log and
exits with the code that was due, and the C thread of ``faulthandler``, which ends the process while a C
function holds the interpreter's lock, or the log cannot be written.
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

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_WORDS_S = 2.0
"""How long the first guard may take to write its line."""

log = structlog.get_logger("fivestage.service.shutdown")


class TimeLeft:
    """What is left of the time that the end may take.

    A step gets its own limit, or half of what is left, so that however many hang the whole comes to its end,
    and those that come last get something too.

    Args:
        limit_s: How long the whole may take; counted from ``begin`` on.
    """

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._ends_at: float | None = None

    def __repr__(self) -> str:
        return f"<TimeLeft limit_s={self._limit_s} ends_at={self._ends_at}>"

    def begin(self) -> None:
        """The end begins."""
        self._ends_at = asyncio.get_running_loop().time() + self._limit_s

    def share(self, most_s: float, *, leaving_s: float = inf) -> float:
        """How long a step may take that wants *most_s*, and must leave at most *leaving_s* to others."""
        if self._ends_at is None:
            return most_s
        left_s = max(0.0, self._ends_at - asyncio.get_running_loop().time())
        return min(most_s, max(left_s / 2, left_s - leaving_s))


class HardEnd:
    """Ends the process; made once, when the orderly end begins.

    Args:
        limit_s: How long that may take.
        code: Tells the exit code of a process whose orderly end did not come in time.
    """

    def __init__(self, limit_s: float, code: Callable[[], int]) -> None:
        self._limit_s = limit_s
        self._code = code
        self._done = threading.Event()
        self._nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 - as long as the process
        # To /dev/null: writing to a standard error without a reader would block.
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
        """The orderly end has come."""
        self._done.set()
        faulthandler.cancel_dump_traceback_later()
