"""Where log lines go: standard error, which may be full, closed or stuck. Nobody waits for it or fails."""

from __future__ import annotations

import contextlib
import os
import select
import threading
import weakref
from typing import Final

ATOMIC_BYTES: Final = select.PIPE_BUF
"""A pipe that is ready takes so many bytes at once."""


class LogStream:
    """Writes lines to a file descriptor, if it takes them now; what it does not take is counted.

    A reader that has stopped reading would otherwise stop the event loop, with all its deadlines; a full
    disk or a reader that is gone would raise in whatever code has something to say.

    A finalizer that the garbage collector runs while a line is written may have something to say too. Its
    line is lost: waiting for the other would be for ever, as it is the same thread that writes it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLOUT)
        self.unlock()
        this = weakref.ref(self)
        os.register_at_fork(after_in_child=lambda: _unlock(this()))
        self._torn = False
        self._owed = b""
        """What is to be written before anything else."""
        self.lost = 0
        """Lines that were not written since the last one that was."""

    def unlock(self) -> None:
        """As in the beginning; also in a copy of the process, where whoever had the lock is not there."""
        self._lock = threading.RLock()
        self._is_writing = False

    def write(self, text: str) -> int:
        """Write whole lines; never raises and never waits."""
        with self._lock:
            if self._is_writing:
                self.lost += 1
                return len(text)
            self._is_writing = True
            try:
                self._write(text.encode(errors="replace"))
            finally:
                self._is_writing = False
        return len(text)

    def _write(self, data: bytes) -> None:
        if not (self._pay() and self._tell_of_the_lost() and self._put(data)):
            self.lost += 1

    def insist(self, text: str) -> None:
        """Write a line that others wait for: now, or as soon as somebody reads. Never raises and never waits.

        Nothing overtakes it: what is written while it waits is lost, as with any full pipe.
        """
        with self._lock:
            self._owed += (self._told() if self.lost else b"") + text.encode(errors="replace")
            self.lost = 0
            if self._paid():
                return
        with contextlib.suppress(RuntimeError):  # the system gives no thread: the next line pays
            threading.Thread(target=self._pay_later, name="fivestage-log", daemon=True).start()

    def _paid(self) -> bool:
        self._is_writing = True
        try:
            return self._pay()
        finally:
            self._is_writing = False

    def _pay_later(self) -> None:
        ready = select.poll()  # a poll of its own: one that others use meanwhile raises
        ready.register(self._descriptor, select.POLLOUT)
        paid = False
        while not paid:
            ready.poll()
            with self._lock:
                paid = self._paid()

    def _pay(self) -> bool:
        """Write what is owed, as far as it is taken; whether nothing is any more."""
        if not self._owed:
            return True
        data = b"\n" + self._owed if self._torn else self._owed
        self._owed, is_in_vain = self._send(data)
        self._torn = False
        if is_in_vain:
            self._torn = len(self._owed) < len(data)
            self.lost += self._owed.count(b"\n")
            self._owed = b""
        return not self._owed

    def _tell_of_the_lost(self) -> bool:
        """Whether all know how many lines were not written."""
        if self.lost and not self._put(self._told()):
            return False
        self.lost = 0
        return True

    def _told(self) -> bytes:
        return b'{"event":"log lines lost","level":"warning","count":%d}\n' % self.lost

    def _put(self, data: bytes) -> bool:
        if self._torn:
            data = b"\n" + data
        rest, _ = self._send(data)
        if len(rest) < len(data):
            self._torn = bool(rest)
        return not rest

    def _send(self, data: bytes) -> tuple[bytes, bool]:
        """Write what is taken now; the rest of it, and whether that will never be taken."""
        view = memoryview(data)
        try:
            while view and self._poll.poll(0):
                view = view[os.write(self._descriptor, view[:ATOMIC_BYTES]) :]
        except OSError:  # ENOSPC, EPIPE, EBADF: there is nobody to tell
            return bytes(view), True
        return bytes(view), False

    def flush(self) -> None:
        """Nothing is kept back."""


def _unlock(stream: LogStream | None) -> None:
    if stream is not None:
        stream.unlock()
