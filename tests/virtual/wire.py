"""A fake link to a worker process, which delivers what a test scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fivestage.executors.process.frames import Decoder, Frame, encode
from fivestage.executors.process.worker import ProcessWorker
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage.executors.executor import OnFinished
    from fivestage.executors.process.connection import WorkerLink


class Wire:
    """A link that records what is written and delivers scripted frames."""

    def __init__(self) -> None:
        self.ready = True
        self.monitor = StepMonitor()
        self.pid = 7
        self.spawned_at = 0.0
        self.gone = False
        self.killed = False
        self.on_frames: Callable[[Iterator[Frame]], None] = lambda _: None
        self.written: list[Any] = []

    def read(self) -> None:
        """Deliver nothing: a test does it."""

    def write(self, data: bytes) -> None:
        self.written += [frame.kind for frame in Decoder().feed(data)]

    def say(self, kind: int, serial: int = 0, *values: object) -> None:
        """Deliver a frame."""
        self.deliver(encode(kind, serial, values))

    def deliver(self, data: bytes) -> None:
        """Deliver frames that are read together."""
        self.on_frames(Decoder().feed(data))

    def kill(self) -> None:
        self.killed = True


def worker_over(wire: Wire, on_finished: OnFinished = lambda _: None) -> ProcessWorker:
    """Return a worker whose process is *wire*."""
    return ProcessWorker(cast("WorkerLink", wire), on_finished, 0.03, b'""')
