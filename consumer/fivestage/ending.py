"""The hard end: at a certain time the process is gone, whatever hangs in it.

Two guards, because the first needs the interpreter: a thread that says so in the log and exits with the code
that was due, and the C thread of ``faulthandler``, which ends the process while a C function holds the
interpreter's lock, or the log cannot be written.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

if TYPE_CHECKING:
    from collections.abc import Callable

LAST_WORDS_S = 2.0
"""How long the first guard may take to write its line."""

log = structlog.get_logger("fivestage.ending")


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
        # To nowhere: a standard error that nobody reads would hold it up.
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
