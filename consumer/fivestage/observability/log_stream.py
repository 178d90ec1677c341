"""Writes log lines to standard error without blocking or raising, even if it is full, closed or not read."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

ATOMIC_BYTES: Final = select.PIPE_BUF
"""A pipe that is ready for writing accepts at least this many bytes at once."""


class LogStream:
    """Writes lines to a file descriptor if it accepts them now, and counts the lines that are lost.

    A blocking write would stop the event loop, and all deadlines with it, as soon as the reader stops
    reading. A full disk or a closed pipe would raise in the code that logs.

    The garbage collector may run a finalizer that logs while this thread is writing a line. That nested line
    is lost: waiting for the outer one would be a deadlock.

    Args:
        descriptor: Where the lines go.
        lost_line: Makes the line that says how many were lost; must not raise.
    """

    def __init__(self, descriptor: int, lost_line: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._make_lost_line = lost_line
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.reset_lock()
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _reset_lock(this()))
        self._is_cut = False
        """Only a part of the last line was written."""
        self._pending = b""
        """Important lines that are written before anything else."""
        self.lost = 0
        """Lines lost since the last line that was written."""

    def reset_lock(self) -> None:
        """Make a new lock; after a fork too, as the thread that held the lock does not exist in the child."""
        self._lock = threading.RLock()
        self._is_writing = False

    def write(self, text: str) -> int:
        """Write whole lines; never raises and never blocks."""
        with self._lock:
            if self._is_writing:
                self.lost += 1
                return len(text)
            self._is_writing = True
            try:
                data = text.encode(errors="replace")
                if not (self._write_pending() and self._report_lost() and self._write_line(data)):
                    self.lost += 1
            finally:
                self._is_writing = False
        return len(text)

    def write_important(self, text: str) -> None:
        """Write a line that is not lost while the reader is slow; never raises and never blocks.

        It is written now or as soon as the descriptor is ready. Other lines written until then are lost.
        """
        with self._lock:
            self._pending += (self._lost_line() if self.lost else b"") + text.encode(errors="replace")
            self.lost = 0
            if self._write_pending_alone():
                return
        with contextlib.suppress(RuntimeError):  # no thread can be started: the next line writes it
            threading.Thread(target=self._write_when_ready, name="fivestage-log", daemon=True).start()

    def _write_pending_alone(self) -> bool:
        self._is_writing = True
        try:
            return self._write_pending()
        finally:
            self._is_writing = False

    def _write_when_ready(self) -> None:
        ready = select.poll()  # not self._poll: a poll object that two threads use at once raises
        ready.register(self._descriptor, select.POLLOUT)
        is_done = False
        while not is_done:
            ready.poll()
            with self._lock:
                is_done = self._write_pending_alone()

    def _write_pending(self) -> bool:
        """Write as much of the pending lines as is accepted; return True if none is left."""
        if not self._pending:
            return True
        data = b"\n" + self._pending if self._is_cut else self._pending
        self._pending, has_failed = self._write_now(data)
        self._is_cut = False
        if has_failed:
            self._is_cut = len(self._pending) < len(data)
            self.lost += self._pending.count(b"\n")
            self._pending = b""
        return not self._pending

    def _report_lost(self) -> bool:
        """Write how many lines were lost, if any; return False if that could not be written either."""
        if self.lost and not self._write_line(self._lost_line()):
            return False
        self.lost = 0
        return True

    def _lost_line(self) -> bytes:
        return self._make_lost_line(self.lost).encode(errors="replace")

    def _write_line(self, data: bytes) -> bool:
        """Write a line, on a new line if the last one was cut; return True if all of it was accepted."""
        if self._is_cut:
            data = b"\n" + data
        rest, _ = self._write_now(data)
        if len(rest) < len(data):
            self._is_cut = bool(rest)
        return not rest

    def _write_now(self, data: bytes) -> tuple[bytes, bool]:
        """Write what is accepted without blocking; return the rest, and True if writing failed for good."""
        view = memoryview(data)
        try:
            while view and self._poll.poll(0):
                view = view[os.write(self._descriptor, view[:ATOMIC_BYTES]) :]
        except OSError:  # ENOSPC, EPIPE, EBADF: there is no other place to report it
            return bytes(view), True
        return bytes(view), False

    def flush(self) -> None:
        """Do nothing: lines are not buffered."""


def _reset_lock(stream: LogStream | None) -> None:
    if stream is not None:
        stream.reset_lock()
