"""Begins the shutdown, on a signal or a failure, and bounds it: its steps share one time limit.

``service`` makes the ``Shutdown`` and calls the steps. After the limit the process ends, whatever hangs.

Two guards end the process. The first is a thread, which logs and exits with the exit code of the failure; it
needs the interpreter. The second, the C thread of ``faulthandler``, works even while a C function holds the
interpreter's lock or the log cannot be written.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import threading
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from fivestage._asyncio import ignore_result
from fivestage.errors import ConfigurationError, InvalidAppError
from fivestage.observability.log_line import described, explained

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

STEP_S = 3.0
"""Seconds that one part may take to stop."""
LAST_WORDS_S = 2.0
"""Seconds that the first guard may take to log and exit."""

log = structlog.get_logger("fivestage.service")


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


class Shutdown:
    """Ends a service in order, and within its time limit. Made before the service starts.

    Args:
        limit_s: How long all steps together may take.
    """

    def __init__(self, limit_s: float) -> None:
        self.ending = asyncio.Event()
        """Set when the shutdown begins."""
        self.failure: Exception | None = None
        """The first failure, for which the service ends."""
        self.time_left = TimeLeft(limit_s)
        self._limit_s = limit_s
        self._hard_end: HardEnd | None = None
        self._signalled = False

    def listen_for_signals(self) -> None:
        """Begin the shutdown on SIGTERM or SIGINT."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._signalled:  # the second signal ends the process at once
            os._exit(1)
        self._signalled = True
        self.begin()

    def begin(self, failure: Exception | None = None) -> None:
        """Begin the shutdown, unless it began before; log the first *failure*."""
        if failure is not None and self.failure is None:
            self.failure = failure
            log.error("stopping", **explained(failure))
        if not self.ending.is_set():
            self.ending.set()
            self.start_limit()

    def start_limit(self) -> None:
        """Start the time limit, after which the process ends, whatever hangs."""
        if self._hard_end is None:
            self.time_left.begin()
            self._hard_end = self._arm()

    def _arm(self) -> HardEnd:
        return HardEnd(self._limit_s, lambda: max(1, exit_code(self.failure)))

    def lift_limit(self) -> None:
        """End the time limit: the shutdown is done."""
        if self._hard_end is not None:
            self._hard_end.cancel()

    async def end_part(self, step: Callable[[], Awaitable[None]], name: str) -> None:
        """Stop one part; if this hangs or fails, log that and return."""
        limit_s = self.time_left.share(STEP_S)
        task = asyncio.ensure_future(step())
        task.add_done_callback(ignore_result)
        await asyncio.wait({task}, timeout=limit_s)
        if not task.done():  # goes on: it may still leave the group, or close a resource
            log.warning("left behind", part=name, after_s=round(limit_s, 3))
        elif not task.cancelled() and (error := task.exception()) is not None:
            log.warning("ended badly", part=name, **described(error))


def exit_code(failure: Exception | None) -> int:
    """Return 0 for no failure, 2 if something must be configured first, 1 for everything else."""
    if failure is None:
        return 0
    return 2 if isinstance(failure, ConfigurationError | InvalidAppError) else 1
