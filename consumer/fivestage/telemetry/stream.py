"""Where log lines go: standard error, which may be full, closed or stuck. Nobody waits for it or fails."""

from __future__ import annotations

import os
import select
from typing import Final

ATOMIC_BYTES: Final = select.PIPE_BUF
"""A pipe that is ready takes so many bytes at once."""


class LogStream:
    """Writes lines to a file descriptor, if it takes them now; what it does not take is counted.

    A reader that has stopped reading would otherwise stop the event loop, with all its deadlines; a full
    disk or a reader that is gone would raise in whatever code has something to say.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self._torn = False
        self.lost = 0
        """Lines that were not written since the last one that was."""

    def write(self, text: str) -> int:
        """Write whole lines; never raises and never waits."""
        if self.lost:
            told = f'{{"event":"log lines lost","level":"warning","count":{self.lost}}}\n'
            if not self._put(told.encode()):
                self.lost += 1
                return len(text)
            self.lost = 0
        if not self._put(text.encode(errors="replace")):
            self.lost += 1
        return len(text)

    def _put(self, data: bytes) -> bool:
        if self._torn:
            data = b"\n" + data
        view = memoryview(data)
        try:
            while view:
                if not self._poll.poll(0):
                    break
                view = view[os.write(self._descriptor, view[:ATOMIC_BYTES]) :]
        except OSError:  # ENOSPC, EPIPE, EBADF: there is nobody to tell
            pass
        if len(view) < len(data):
            self._torn = bool(view)
        return not view

    def flush(self) -> None:
        """Nothing is kept back."""
