"""What a worker process tells the bus, in the right order and in time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from fivestage.core.stage_history import StageHistory
from fivestage.executors.process import messages

if TYPE_CHECKING:
    import socket

    from fivestage.core.stage_history import RunningStage, StageRun


class Outbox:
    """Frames to the bus. Blocks while the bus does not read: it always does."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._frames: list[bytes] = []

    def keep(self, frame: bytes) -> None:
        """Send it with what comes next."""
        self._frames.append(frame)

    def send(self, frame: bytes) -> None:
        """Have it in the socket, from where the bus reads it whatever happens here."""
        self._frames.append(frame)
        data = b"".join(self._frames)
        self._frames.clear()
        try:
            self._socket.sendall(data)
        except OSError:  # the bus has gone
            os._exit(0)


class Reporter(StageHistory):
    """A trail that the bus reads in a copy of its own."""

    __slots__ = ("_max_data_bytes", "_outbox", "serial")

    def __init__(self, outbox: Outbox, max_data_bytes: int) -> None:
        super().__init__()
        self._outbox = outbox
        self._max_data_bytes = max_data_bytes
        self.serial = 0
        """What the bus calls it."""

    def start(self, running: RunningStage) -> None:
        """A stage begins: the bus must know before its code runs, which may never give control back."""
        super().start(running)
        self._outbox.send(messages.running(self.serial, running))

    def finish(self, run: StageRun) -> None:
        """The running stage ended; the next one, or the end of the job, takes the news along."""
        self._outbox.keep(messages.finished(messages.FINISHED, self.serial, run, self, self._max_data_bytes))
        super().finish(run)

    def fail_over(self, run: StageRun) -> None:
        """The running stage failed and is tried once more."""
        self._outbox.keep(
            messages.finished(messages.FAILED_OVER, self.serial, run, self, self._max_data_bytes)
        )
        super().fail_over(run)
