"""The bus's end of one worker process: a socket, a page of shared memory, and a handle on the process."""

from __future__ import annotations

import asyncio
import contextlib
import mmap
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.executors.process.frames import Decoder
from fivestage.executors.process.loop_probe import read_location
from fivestage.executors.process.messages import HELLO
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fivestage.executors.process.frames import Frame

RECEIVE_BYTES: Final = 65536
"""Read in one turn of the loop: what that holds of the smallest frames is dealt with in a millisecond."""
MAX_TURNS: Final = 256
"""Turns after the process's end; what it has written before is in the socket and comes to less."""

MAX_KEPT_BYTES: Final = 1 << 24
"""Kept for a process that does not exist yet; with more the link ends, as most of its jobs have."""

log = structlog.get_logger("fivestage.executor")
_BUFFER: Final = bytearray(RECEIVE_BYTES)
"""One for all links: what is read is dealt with before the next reads."""


class WorkerLink:
    """Usable before its process exists: frames written until then are kept, and sent when it starts.

    A link takes descriptors when its process is requested (``open``), not when it is made, so making one
    cannot fail. Used from the bus loop. Nothing here raises for what the process does: it may end at any
    moment, and its code may write anything into the socket.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._lifeline: int | None = None
        """The kernel kills the process when this is closed, see ``child.end_with``."""
        self._questions: int | None = None
        """An eventfd, see loop_probe.py."""
        self._page: mmap.mmap | None = None
        self._far_end: list[int] = []
        self.monitor = StepMonitor()
        """Whose code has control there; still to be read when the process has ended."""
        self.on_frame: Callable[[Frame], None] = _ignore
        """Called with what the process says; a ValueError, TypeError or LookupError means it is nonsense."""
        self.on_hello: Callable[[], None] = _nothing
        """Called when the process is ready."""
        self.on_ready: Callable[[], None] = _nothing
        """Called after that."""
        self.on_gone: Callable[[WorkerLink], None] = _ignore
        """Called once, when ``gone`` has become true."""
        self.pid: int | None = None
        self.spawned_at: float | None = None
        self.greeted = asyncio.Event()
        """The process has said hello."""
        self._pidfd: int | None = None
        self._decoder = Decoder()
        self._unsent: list[bytes] = []
        self._kept_bytes = 0
        """How much was written before there was a process."""
        self._flushing = False
        self._at_end = False
        self._dead = False

    def __repr__(self) -> str:
        return f"<WorkerLink pid={self.pid} {'gone' if self.gone else 'open'}>"

    @property
    def gone(self) -> bool:
        """The process has ended, and all that it said has been dealt with."""
        return self._dead and self._at_end

    # The process

    def open(self) -> Sequence[int]:
        """Make what the process gets: descriptors of its socket, memory, lifeline and eventfd, in this order.

        Raises:
            OSError: there is no room for them. Nothing is left behind.
        """
        try:
            self._socket, far_socket = socket.socketpair()
            self._far_end.append(far_socket.detach())
            self._socket.setblocking(False)
            memory = os.memfd_create("fivestage-worker", os.MFD_CLOEXEC)
            self._far_end.append(memory)
            os.ftruncate(memory, mmap.PAGESIZE)
            self._page = mmap.mmap(memory, mmap.PAGESIZE)
            self.monitor.cells = memoryview(self._page).cast("Q")
            far_lifeline, self._lifeline = os.pipe()
            self._far_end.append(far_lifeline)
            self._questions = os.eventfd(0, os.EFD_CLOEXEC)
            self._far_end.append(os.dup(self._questions))
        except OSError:
            self.withdraw()
            raise
        return self._far_end

    def handed_over(self) -> None:
        """Close the far end here: it is on its way to the process."""
        while self._far_end:
            os.close(self._far_end.pop())

    def withdraw(self) -> None:
        """Undo ``open``: there is no process, or it is not to be had. Frames are kept for the next one.

        A process that was made for this end nevertheless has received none, and is killed by the kernel.
        """
        self.handed_over()
        self._cut()
        self.monitor.cells = [0, 0]
        self._page = None

    def spawned(self, pid: int, pidfd: int) -> None:
        """Take over the process; *pidfd* refers to it even when its number is used again.

        Raises:
            OSError: it cannot be watched; *pidfd* still belongs to the caller, who withdraws the link.
        """
        assert self._socket is not None  # noqa: S101 - it was opened before the process was requested
        self._loop.add_reader(self._socket, self._read)
        self._loop.add_reader(pidfd, self._on_death)
        self.pid, self._pidfd, self.spawned_at = pid, pidfd, time.monotonic()
        if self._unsent:
            self._flush_soon()

    def kill(self) -> None:
        """End the process at once, or before it exists. Harmless when it has ended."""
        if self.pid is None:
            self.abandon()
        else:
            self._signal()

    def _signal(self) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def ask_for_place(self) -> None:
        """Have the process say where its code is; see ``place``."""
        if self._questions is not None:
            os.eventfd_write(self._questions, 1)

    def place(self) -> str | None:
        """Where the code is that has control, as far as the process has said so."""
        return None if self._page is None else read_location(self._page, self.monitor.seen()[1])

    def abandon(self) -> None:
        """Release everything: there is no process, or it has been killed and takes its time to end."""
        if not self.gone:
            self._on_death()

    # Writing

    def write(self, frame: bytes) -> None:
        """Send a frame, in one system call with what else is written in this turn of the loop."""
        if self._at_end:
            return
        self._unsent.append(frame)
        if self.pid is None:
            self._kept_bytes += len(frame)
            if self._kept_bytes > MAX_KEPT_BYTES:
                self.kill()
        elif not self._flushing:
            self._flush_soon()

    def _flush_soon(self) -> None:
        self._flushing = True
        self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._at_end or self._socket is None:
            return
        data = self._unsent[0] if len(self._unsent) == 1 else b"".join(self._unsent)
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:  # it has closed its end, which is read as such
            self._unsent.clear()
            return
        self._unsent = [data[sent:]] if sent < len(data) else []
        if self._unsent:
            self._flushing = True
            self._loop.add_writer(self._socket, self._go_on)

    def _go_on(self) -> None:
        assert self._socket is not None  # noqa: S101 - it has just become writable
        self._loop.remove_writer(self._socket)
        self._flush()

    # Reading

    def _read(self) -> bool:
        """Deal with what there is to read; whether there may be more."""
        try:
            size = 0 if self._socket is None else self._socket.recv_into(_BUFFER)
        except BlockingIOError:
            return False
        except OSError:
            size = 0
        if not size:
            self._end()
            return False
        with memoryview(_BUFFER) as view, view[:size] as data:
            self._receive(data)
        return not self._at_end

    def _receive(self, data: memoryview) -> None:
        try:
            for frame in self._decoder.feed(data):
                if frame.head[0] == HELLO:
                    self.greeted.set()
                    self.on_hello()
                    self.on_ready()
                else:
                    self.on_frame(frame)
        except (ValueError, TypeError, LookupError) as error:
            log.warning("a worker's socket holds nonsense", pid=self.pid, error_type=type(error).__name__)
            self._end()

    def _end(self) -> None:
        """Nothing more is read: the process is of no use, whether it has ended or not."""
        if not self._at_end:
            self._at_end = True
            self._unsent.clear()
            self.handed_over()
            self._cut()
            self._signal()

    def _cut(self) -> None:
        """Close this end."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
            self._socket = None
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None
        if self._questions is not None:
            os.close(self._questions)
            self._questions = None

    def _on_death(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            with contextlib.suppress(ChildProcessError):  # the fork server's child, unless that has ended
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            os.close(self._pidfd)
            self._pidfd = None
        # A copy of it that its code has forked may keep the socket open: there is no end to wait for.
        for _ in range(MAX_TURNS):
            if self._at_end or not self._read():
                break
        self._dead = True
        self.monitor.cells = [*self.monitor.cells]  # as they were last; mmap keeps a descriptor open
        self._page = None
        self._end()
        self.on_gone(self)


def _ignore(_: object) -> None:
    """Do nothing: a spare has nothing to say."""


def _nothing() -> None:
    """Do nothing."""
