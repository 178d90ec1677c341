"""The service's handle of a worker process, over a fake link."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from fivestage import Query
from fivestage.core.job import Job
from fivestage.core.plan import Plan
from fivestage.executors.process import messages
from fivestage.executors.process.frames import Decoder, Frame, encode
from fivestage.executors.process.worker import ANSWER_S, QUIT_S, ProcessWorker
from fivestage.pipeline.step_monitor import StepMonitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.executors.process.connection import WorkerLink

PLAN = Plan.of()


class Wire:
    """A link that records what is written and delivers scripted frames."""

    def __init__(self) -> None:
        self.ready = True
        self.monitor = StepMonitor()
        self.pid = 7
        self.gone = False
        self.killed = False
        self.on_frame: Callable[[Frame], None] = lambda _: None
        self.on_caught_up: Callable[[], None] = lambda: None
        self.written: list[Any] = []

    def write(self, data: bytes) -> None:
        self.written += [frame.head[0] for frame in Decoder().feed(data)]

    def say(self, *head: object) -> None:
        """Deliver a frame."""
        for frame in Decoder().feed(encode(head)):
            self.on_frame(frame)

    def kill(self) -> None:
        self.killed = True


def busy_worker() -> tuple[Wire, ProcessWorker]:
    """A worker whose query has just ended and whose last ping is unanswered."""
    wire = Wire()
    worker = ProcessWorker(cast("WorkerLink", wire), lambda _: None, 0.03, b'""')
    worker.start(Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=1.0))
    worker.check(0.0, elapsed_s=0.01)
    wire.say(messages.DONE, 1, True, [])
    assert wire.written[-1] == messages.PING
    return wire, worker


async def test_a_worker_that_has_yet_to_answer_may_close_its_resources() -> None:
    """A worker that was only slow is asked to stop and has the usual time to close its resources."""
    wire, worker = busy_worker()
    worker.end(0.0)
    assert wire.written[-1] == messages.QUIT
    wire.say(messages.PONG)
    worker.end(QUIT_S)
    assert not wire.killed
    worker.end(QUIT_S + 0.1)
    assert wire.killed


async def test_a_worker_that_does_not_answer_is_killed() -> None:
    """A worker that does not answer is killed soon: its loop is blocked."""
    wire, worker = busy_worker()
    worker.end(0.0)
    worker.end(ANSWER_S)
    assert not wire.killed
    worker.end(ANSWER_S + 0.1)
    assert wire.killed
