"""Reports the progress of jobs from a worker process to the main process, in order."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Final

from fivestage.core.stage_history import StageHistory
from fivestage.executors.process import messages
from fivestage.pipeline import fork_guard

if TYPE_CHECKING:
    import socket

    from fivestage.core.stage_run import RunningStage, StageRun
    from fivestage.executors.process.ring import Ring


FULL_S: Final = 0.000_05
"""Seconds until the next look for room in a full ring; twice as long after each that finds none."""
LONGEST_S: Final = 0.001


class Outbox:
    """Sends frames to the main process, where they are read even if this process dies.

    Blocks while the ring is full, until the main process reads. The main process reads the ring every few
    milliseconds, before it ends a query, and after this process has died: few frames have to wake it. A copy
    of this process, which a node has forked, writes nothing: it shares the ring, but not the lock.

    Args:
        ring: The frames.
        connection: A byte written to this socket wakes the main process.
    """

    def __init__(self, ring: Ring, connection: socket.socket) -> None:
        self._ring = ring
        self._socket = connection
        self._held: list[bytes] = []
        self._held_wakes = False
        self._lock = threading.Lock()
        self._forks = fork_guard.count[0]

    @property
    def is_in_copy(self) -> bool:
        """Whether this is a copy of the process that the outbox was made in."""
        return fork_guard.count[0] != self._forks

    def hold(self, frame: bytes, *, wakes: bool = False) -> None:
        """Write a frame together with the next one; with *wakes* that one wakes the main process."""
        self._held.append(frame)
        self._held_wakes = self._held_wakes or wakes

    def note(self, frame: bytes) -> None:
        """Write a frame; wakes the main process only for those that were held, or if there is no room."""
        wakes = self._held_wakes
        self._put(self._with_held(frame), wakes=wakes)

    def send(self, frame: bytes) -> None:
        """Write a frame and wake the main process."""
        self.write(self._with_held(frame))

    def write(self, data: bytes) -> None:
        """Write whole frames, before those that are held, and wake the main process; in any thread."""
        self._put(data, wakes=True)

    def _with_held(self, frame: bytes) -> bytes:
        if not self._held:
            return frame
        frames = b"".join((*self._held, frame))
        self._held.clear()
        self._held_wakes = False
        return frames

    def _put(self, data: bytes, *, wakes: bool) -> None:
        if self.is_in_copy:
            return
        with self._lock:
            done, pause_s = self._ring.write(data), FULL_S
            while done < len(data):
                self._wake()
                time.sleep(pause_s)
                count = self._ring.write(memoryview(data)[done:])
                done, pause_s = done + count, FULL_S if count else min(2 * pause_s, LONGEST_S)
        if wakes:
            self._wake()

    def _wake(self) -> None:
        if not self._ring.take_wake():
            return
        try:
            self._socket.send(b"\0")
        except OSError:  # the main process has ended, or code has closed the socket
            os._exit(0)


class Reporter(StageHistory):
    """A stage history that the main process keeps a copy of."""

    __slots__ = ("_max_data_bytes", "_outbox", "serial")

    def __init__(self, outbox: Outbox, max_data_bytes: int) -> None:
        super().__init__()
        self._outbox = outbox
        self._max_data_bytes = max_data_bytes
        self.serial = 0
        """The number of the history in messages, given by the main process."""

    def start(self, running: RunningStage) -> None:
        """Report a stage before its code runs, which may never give control back."""
        super().start(running)
        frame = messages.encode_running(self.serial, running)
        if running.call is not None:  # a thread may have run the code for a while
            frame += self._offer_of(running)
        self._outbox.note(frame)

    def finish(self, run: StageRun) -> None:
        """Report the end of a stage, together with the start of the next or the end of the job."""
        self._outbox.hold(
            messages.encode_finished(messages.FINISHED, self.serial, run, self, self._max_data_bytes)
        )
        super().finish(run)

    def fail_over(self, run: StageRun) -> None:
        """Report that a stage has failed and is tried again with another node."""
        if self.running is not None:  # what it offered last may still wait to be sent
            self._outbox.hold(self._offer_of(self.running))
        self._outbox.hold(
            messages.encode_finished(messages.FAILED_OVER, self.serial, run, self, self._max_data_bytes)
        )
        super().fail_over(run)

    def start_hedge(self, running: RunningStage) -> None:
        """Report a call beside the running one before its code runs."""
        super().start_hedge(running)
        self._outbox.note(messages.encode_running(self.serial, running, messages.HEDGE))

    def drop(self, run: StageRun) -> None:
        """Report the end of one of two calls, together with what follows, mostly the end of the stage."""
        for one in (self.running, self.hedge):
            if one is not None and one.attempt == run.attempt:
                self._outbox.hold(self._offer_of(one))
        self._outbox.hold(
            messages.encode_finished(messages.DROPPED, self.serial, run, self, self._max_data_bytes)
        )
        super().drop(run)

    def _offer_of(self, running: RunningStage) -> bytes:
        """The frame of the last offer of a call; empty if there is none."""
        offer = None if running.offers is None else running.offers.last_offer
        return b"" if offer is None else messages.encode_offer(self.serial, running.attempt, offer)
