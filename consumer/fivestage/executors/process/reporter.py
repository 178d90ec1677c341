"""Reports the progress of jobs from a worker process to the main process, in order."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from fivestage.core.stage_history import StageHistory
from fivestage.executors.process import messages

if TYPE_CHECKING:
    import socket

    from fivestage.core.stage_history import RunningStage, StageRun


class Outbox:
    """Sends frames to the main process. Blocks while the socket is full, until the main process reads."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames: list[bytes] = []
        self._lock = threading.Lock()

    def send_later(self, frame: bytes) -> None:
        """Send a frame together with the next one that is sent."""
        self._frames.append(frame)

    def send(self, frame: bytes) -> None:
        """Write a frame to the socket, where the main process reads it even if this process dies."""
        self._frames.append(frame)
        data = b"".join(self._frames)
        self._frames.clear()
        self.write(data)

    def write(self, data: bytes) -> None:
        """Write whole frames to the socket, before those of ``send_later``; in any thread."""
        try:
            with self._lock:
                self._socket.sendall(data)
        except OSError:  # the main process has ended
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
        self._outbox.send(frame)

    def finish(self, run: StageRun) -> None:
        """Report the end of a stage, together with the start of the next or the end of the job."""
        self._outbox.send_later(
            messages.encode_finished(messages.FINISHED, self.serial, run, self, self._max_data_bytes)
        )
        super().finish(run)

    def fail_over(self, run: StageRun) -> None:
        """Report that a stage has failed and is tried again with another node."""
        if self.running is not None:  # what it offered last may still wait to be sent
            self._outbox.send_later(self._offer_of(self.running))
        self._outbox.send_later(
            messages.encode_finished(messages.FAILED_OVER, self.serial, run, self, self._max_data_bytes)
        )
        super().fail_over(run)

    def start_hedge(self, running: RunningStage) -> None:
        """Report a call beside the running one before its code runs."""
        super().start_hedge(running)
        self._outbox.send(messages.encode_running(self.serial, running, messages.HEDGE))

    def drop(self, run: StageRun) -> None:
        """Report the end of one of two calls, together with what follows, mostly the end of the stage."""
        for one in (self.running, self.hedge):
            if one is not None and one.attempt == run.attempt:
                self._outbox.send_later(self._offer_of(one))
        self._outbox.send_later(
            messages.encode_finished(messages.DROPPED, self.serial, run, self, self._max_data_bytes)
        )
        super().drop(run)

    def _offer_of(self, running: RunningStage) -> bytes:
        """The frame of the last offer of a call; empty if there is none."""
        offer = None if running.offers is None else running.offers.last_offer
        return b"" if offer is None else messages.encode_offer(self.serial, running.attempt, offer)
