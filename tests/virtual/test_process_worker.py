"""The service's handle of a worker process, over a fake link."""

from __future__ import annotations

import mmap
import socket
from typing import TYPE_CHECKING

from fivestage import Query
from fivestage.core.job import Job
from fivestage.core.offer import Offer
from fivestage.core.plan import Plan
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.executors.process import messages
from fivestage.executors.process.reporter import Outbox, Reporter
from fivestage.executors.process.ring import Ring
from fivestage.executors.process.worker import ANSWER_S, QUIT_S
from fivestage_schemas import Outcome

from .wire import Wire, worker_over

if TYPE_CHECKING:
    from collections.abc import Callable

    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.process.worker import ProcessWorker

PLAN = Plan.of()


def busy_worker() -> tuple[Wire, ProcessWorker]:
    """A worker whose query has just ended and whose last ping is unanswered."""
    wire = Wire()
    worker = worker_over(wire)
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


def reported(*steps: Callable[[Reporter], None]) -> StageHistory:
    """The history in the main process after a worker's history has taken some steps, in one read."""
    wire = Wire()
    worker = worker_over(wire)
    job, ring = Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=1.0), Ring(mmap.mmap(-1, 9000), 0, 9000)
    worker.start(job)
    near, far = socket.socketpair()
    with near, far:
        outbox = Outbox(ring, near)
        reporter = Reporter(outbox, 1000)
        reporter.serial = 1
        for step in steps:
            step(reporter)
        outbox.note(b"")  # what is held waits for the next frame
    wire.deliver(ring.read(9000))
    return job.history


def starts(sequence: int, node: str | None = None, attempt: int = 1) -> Callable[[Reporter], None]:
    """Start a stage."""
    return lambda history: history.start(RunningStage(PLAN.stages[sequence], 2.0, 0.1, node, attempt))


def ends(sequence: int, outcome: Outcome = Outcome.SUCCESS) -> Callable[[Reporter], None]:
    """End a stage, or an attempt that another one may follow."""
    run = StageRun(PLAN.stages[sequence], outcome, b"1", started_at=2.0)
    return lambda history: history.finish(run) if run.success else history.fail_over(run)


def offers(text: bytes) -> Callable[[Reporter], None]:
    """Offer an answer of the call that runs; the frame comes after the start of the call."""

    def offer(history: Reporter) -> None:
        assert history.running is not None
        history._outbox.note(
            messages.encode_offer(history.serial, history.running.attempt, Offer(text, 0.5, "node"))
        )

    return offer


async def test_a_stage_that_has_started_is_known() -> None:
    """A start whose end was not read is in the history after the read, with all that was sent of it."""
    history = reported(starts(0), ends(0), starts(1), ends(1), starts(2, "node", 3))
    assert [run.spec.sequence for run in history.runs] == [0, 1]
    assert history.running is not None
    assert (history.running.spec, history.running.node) == (PLAN.stages[2], "node")
    assert (history.running.attempt, history.running.started_at) == (3, 2.0)


async def test_stages_that_have_started_and_ended_are_known() -> None:
    """Nothing runs after the end of the last stage that was read."""
    history = reported(starts(0), ends(0), starts(1), ends(1))
    assert [run.spec.sequence for run in history.runs] == [0, 1]
    assert history.running is None


async def test_an_offer_beside_its_start_is_known() -> None:
    """What a call has offered counts, though start, offer and end of the call come in one read."""
    read = starts(0), ends(0), starts(1), ends(1), starts(2, "node"), offers(b'"first"')
    last = reported(*read).last_offer()
    assert last is not None
    assert last.answer_json == b'"first"'
    kept = reported(*read, ends(2, Outcome.TIMEOUT)).offer
    assert kept is not None
    assert kept.answer_json == b'"first"'
