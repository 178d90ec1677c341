"""The connection to one worker process: a socket, shared memory, and a process handle.

Frames to the process go through the socket. Its own are in a ring in the shared memory, where they outlive
it, and a byte in the socket says that there are some.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import mmap
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Final

import structlog

from fivestage.executors.process.frames import Decoder
from fivestage.executors.process.loop_probe import read_location
from fivestage.executors.process.ring import Ring
from fivestage.executors.process.send_queue import SendQueue
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fivestage.executors.process.frames import Frame

RING_BYTES: Final = 1 << 18
"""The size of the ring that the process writes its frames into: tens of queries."""
MEMORY_BYTES: Final = mmap.PAGESIZE + RING_BYTES
READ_BYTES: Final = 1 << 16
"""Bytes per read; even if these are all the smallest frames, they are handled within milliseconds."""
MAX_KEPT_BYTES: Final = 1 << 24
"""Most bytes kept until the process exists; with more, most jobs have ended, so the link is given up."""

log = structlog.get_logger("fivestage.executor")
_WAKES: Final = 4096
"""Bytes per read of the socket; a process writes one for each wake."""


class WorkerLink:
    """Sends frames to a worker process and receives its frames. Used from the bus loop.

    A link can be used before its process exists: frames are kept, and sent when the process starts. A link
    has file descriptors only once the process is requested (``open``), so making a link cannot fail. Nothing
    here raises for what the process does: it may end at any time, and its code may write anything into the
    socket and the memory.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._lifeline: int | None = None
        """A pipe; when it is closed, the kernel kills the process, see ``lifetime.die_with_pipe``."""
        self._location_requests: int | None = None
        """An eventfd, see loop_probe.py."""
        self._memory: mmap.mmap | None = None
        self._child_ends: list[int] = []
        self.monitor = StepMonitor()
        """Shows whose code is executing; can still be read when the process has ended."""
        self.on_frames: Callable[[Iterator[Frame]], None] = lambda _: None
        """Called with the frames of each read. They may raise ValueError, and the function also TypeError or
        LookupError, if they are invalid."""
        self.on_hello: Callable[[], None] = lambda: None
        """Called when the process is ready."""
        self.on_ready: Callable[[], None] = lambda: None
        """Called after ``on_hello``."""
        self.on_gone: Callable[[WorkerLink], None] = lambda _: None
        """Called once, when ``gone`` has become true."""
        self.pid: int | None = None
        self.spawned_at: float | None = None
        self.ready = False
        """The process has reported that it is ready; still True after its end."""
        self._pidfd: int | None = None
        self._decoder = Decoder()
        self._ring: Ring | None = None
        self._sending = SendQueue(self._loop)
        self._reading_on = False
        """The rest of the ring is read in the next pass of the loop."""
        self._at_end = False
        self._dead = False

    def __repr__(self) -> str:
        return f"<WorkerLink pid={self.pid} {'gone' if self.gone else 'open'}>"

    @property
    def gone(self) -> bool:
        """Whether the process has ended and all that it wrote has been read."""
        return self._dead and self._at_end

    # The process

    def open(self) -> Sequence[int]:
        """Make the descriptors for the process: of its socket, memory, lifeline and eventfd, in this order.

        Raises:
            OSError: there is no room for them. No descriptor is left open.
        """
        try:
            self._socket, child_socket = socket.socketpair()
            self._child_ends.append(child_socket.detach())
            self._socket.setblocking(False)
            memory = os.memfd_create("fivestage-worker", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            self._child_ends.append(memory)
            os.ftruncate(memory, MEMORY_BYTES)
            _keep_size(memory)
            self._memory = mmap.mmap(memory, MEMORY_BYTES)
            self.monitor.cells = memoryview(self._memory)[: mmap.PAGESIZE].cast("Q")
            self._ring = Ring(self._memory, mmap.PAGESIZE, RING_BYTES)
            self._ring.ask_to_be_woken()
            child_lifeline, self._lifeline = os.pipe()
            self._child_ends.append(child_lifeline)
            self._location_requests = os.eventfd(0, os.EFD_CLOEXEC)
            self._child_ends.append(os.dup(self._location_requests))
        except OSError:
            self.reset()
            raise
        return self._child_ends

    def close_child_ends(self) -> None:
        """Close the child's descriptors in this process, after they have been sent."""
        while self._child_ends:
            os.close(self._child_ends.pop())

    def reset(self) -> None:
        """Undo ``open`` because there is no usable process; frames are kept for the next one.

        If a process was made all the same, it has received no frame, and the kernel kills it.
        """
        self.close_child_ends()
        self._close_bus_ends()
        self.monitor.cells = [0, 0]
        self._memory = self._ring = None

    def spawned(self, pid: int, pidfd: int) -> None:
        """Take over the process; *pidfd* refers to it even when its number is used again.

        Raises:
            OSError: it cannot be watched; the caller still owns *pidfd*, and resets the link.
        """
        assert self._socket is not None  # noqa: S101 - it was opened before the process was requested
        self._loop.add_reader(self._socket, self._on_readable)
        self._loop.add_reader(pidfd, self._on_death)
        self.pid, self._pidfd, self.spawned_at = pid, pidfd, time.monotonic()
        # Last: where something above fails, ``reset`` follows, which keeps the frames.
        self._sending.attach(self._socket)

    def note_hello(self) -> None:
        """Record that the process has reported that it is ready."""
        self.ready = True
        self.on_hello()
        self.on_ready()

    def kill(self) -> None:
        """Kill the process, or make sure that it is not started. Harmless when it has ended."""
        if self.pid is None:
            self.release()
        else:
            self._send_kill()

    def _send_kill(self) -> None:
        if self._pidfd is not None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def request_location(self) -> None:
        """Ask the process which line of code it is executing; see ``location``."""
        if self._location_requests is not None:
            os.eventfd_write(self._location_requests, 1)

    def location(self) -> str | None:
        """Return the line of code that the process is executing; None if it has not answered."""
        return None if self._memory is None else read_location(self._memory, self.monitor.seen()[1])

    def release(self) -> None:
        """Close all descriptors: there is no process, or it was killed and has not ended yet."""
        if not self.gone:
            self._on_death()

    # Writing

    def write(self, frame: bytes) -> None:
        """Send a frame, in one system call with all others of this round of the loop."""
        if self._at_end:
            return
        self._sending.put(frame)
        if self.pid is None and self._sending.kept_bytes > MAX_KEPT_BYTES:
            self.kill()

    # Reading

    def _on_readable(self) -> None:
        """Read the frames of the process, which has just woken this one, or has closed its end."""
        try:
            woken = b"" if self._socket is None else self._socket.recv(_WAKES)
        except BlockingIOError:
            return
        except OSError:
            woken = b""
        if woken and self._ring is not None:
            self._ring.ask_to_be_woken()
            if not self._reading_on:
                self._read_on()
        else:
            self.read()
            self._end()

    def _read_on(self) -> None:
        """Handle some frames, and the rest in the next pass of the loop."""
        self._read_some()
        self._reading_on = not self._at_end and self._ring is not None and self._ring.unread != 0
        if self._reading_on:
            self._loop.call_soon(self._read_on)

    def read(self) -> None:
        """Handle all frames that are in the ring now, whether or not the process has woken this one."""
        for _ in range(-(-RING_BYTES // READ_BYTES)):
            if self._ring is None or not self._ring.unread:
                return
            self._read_some()

    def _read_some(self) -> None:
        if self.pid is None or self._at_end or self._ring is None:
            return
        try:
            self.on_frames(self._decoder.feed(self._ring.read(READ_BYTES)))
        except (ValueError, TypeError, LookupError) as error:
            log.warning("worker sent invalid data", pid=self.pid, error_type=type(error).__name__)
            self._end()

    def _end(self) -> None:
        """Stop reading and kill the process, if it still runs."""
        if not self._at_end:
            self._at_end = True
            self._sending.close()
            self.close_child_ends()
            self._close_bus_ends()
            self._send_kill()

    def _close_bus_ends(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
        for fileno in (self._lifeline, self._location_requests):
            if fileno is not None:
                os.close(fileno)
        self._socket = self._lifeline = self._location_requests = None

    def _on_death(self) -> None:
        if self._pidfd is not None:
            self._loop.remove_reader(self._pidfd)
            with contextlib.suppress(ChildProcessError):  # it is a child only if the fork server has ended
                os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
            os.close(self._pidfd)
            self._pidfd = None
        self.read()
        self._dead = True
        self.monitor.cells = [*self.monitor.cells]  # the last values; the mapping keeps a descriptor open
        self._memory = self._ring = None
        self._end()
        self.on_gone(self)


def _keep_size(memory: int) -> None:
    """Forbid to make shared memory smaller: that would end each process that reads it."""
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
