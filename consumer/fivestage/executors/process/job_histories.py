"""The main process's copies of the stage histories of the jobs in a worker process."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from fivestage.core.adaptive.breaker import BreakerState
from fivestage.core.offer import SentOffer
from fivestage.executors.process import messages
from fivestage.executors.task_host import report_wait
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fivestage.core.job import Job
    from fivestage.core.stage_history import StageHistory
    from fivestage.executors.job_registry import JobRegistry
    from fivestage.executors.process.frames import Frame

_PROCESSING: Final = StageType.PROCESSING


class JobHistories:
    """Brings the histories of jobs up to date with what their process reports.

    Args:
        registry: Learns which jobs have ended.
        receive_other: Called with frames that are about no job.
        left_out: JSON that stands for an answer too large to be sent.
    """

    def __init__(
        self, registry: JobRegistry, receive_other: Callable[[Frame], None], left_out: bytes
    ) -> None:
        self._registry = registry
        self._receive_other = receive_other
        self._left_out = left_out
        self._last_serial = 0
        self._jobs: dict[int, tuple[Job, StageHistory]] = {}
        """The jobs in the process, by the number that messages give to the history."""
        self._serial_of: dict[StageHistory, int] = {}
        self._starts: dict[int, Frame] = {}
        """The frames of stages that have started since the last read, and not ended: most end before it."""

    def __repr__(self) -> str:
        return f"<JobHistories {len(self._jobs)}>"

    def add(self, job: Job) -> int:
        """Return the serial number for the history of a job that is to be started."""
        self._last_serial += 1
        self._jobs[self._last_serial] = job, job.history
        self._serial_of[job.history] = self._last_serial
        return self._last_serial

    def serial_of(self, history: StageHistory) -> int | None:
        """Return the number of a history; None once its job is done."""
        return self._serial_of.get(history)

    def receive(self, frames: Iterator[Frame]) -> None:
        """Enter what the frames of one read say.

        Raises:
            ValueError, TypeError, LookupError: a frame is invalid. What is before it has been entered.
        """
        try:
            for frame in frames:
                if messages.RUNNING <= frame.kind <= messages.DROPPED:
                    self._receive(frame)
                else:
                    self._receive_other(frame)
        finally:
            self._enter_starts()

    def _receive(self, frame: Frame) -> None:
        kind, serial = frame.kind, frame.serial
        if kind == messages.RUNNING:
            if serial not in self._jobs:
                raise LookupError("no such history")
            self._starts[serial] = frame
            return
        start = self._starts.pop(serial, None)
        if start is not None and kind != messages.FINISHED:
            self._start(start)
        if kind == messages.DONE:
            self._done(frame)
        elif serial in self._jobs or kind != messages.OFFER:  # a call not waited for may offer after the end
            job, history = self._jobs[serial]
            if not history.closed:
                self._enter(frame, job, history)

    def _enter_starts(self) -> None:
        """Enter the stages that have started and not ended; those that are invalid do not stop the others."""
        error: Exception | None = None
        while self._starts:
            _, start = self._starts.popitem()
            try:
                self._start(start)
            except (ValueError, TypeError, LookupError) as found:
                error = found
        if error is not None:
            raise error

    def _start(self, frame: Frame) -> None:
        job, history = self._jobs[frame.serial]
        if not history.closed:
            history.start(messages.decode_running(frame, job.plan))

    def _enter(self, frame: Frame, job: Job, history: StageHistory) -> None:
        kind = frame.kind
        if kind == messages.FINISHED:
            self._finish(frame, job, history)
        elif kind == messages.OFFER:
            _offer(frame, history)
        elif kind == messages.WAITS:
            history.waiting = messages.decode_waits(frame, job.plan, time.monotonic())
            report_wait(self, job, history, None)  # this stands for the threads of the process
        elif kind == messages.GOES_ON:
            report_wait(self, job, history, messages.decode_goes_on(frame))
        elif kind == messages.FAILED_OVER:
            history.fail_over(messages.decode_finished(frame, job.plan).run)
        elif kind == messages.HEDGE:
            history.start_hedge(messages.decode_running(frame, job.plan))
        elif kind == messages.DROPPED:
            history.drop(messages.decode_finished(frame, job.plan).run)
        else:
            raise ValueError("no kind of frame")

    def _finish(self, frame: Frame, job: Job, history: StageHistory) -> None:
        finished = messages.decode_finished(frame, job.plan)
        if finished.run.spec.sequence != len(history.runs):
            raise ValueError("no such stage")
        del history.superseded[finished.superseded :]
        if finished.answer_bytes:
            history.confidence = finished.confidence
            history.answer_json = finished.answer_json or self._left_out
        history.finish(finished.run)

    def _done(self, frame: Frame) -> None:
        completed, unused_probes = messages.decode_done(frame)
        job, history = self._jobs.pop(frame.serial)
        del self._serial_of[history]
        for name in unused_probes:
            if job.routing.node(name).state is BreakerState.HALF_OPEN:
                job.routing.probes[name] = True
        self._registry.done(job, history, completed)


def _offer(frame: Frame, history: StageHistory) -> None:
    """Keep what the running call of a node offers."""
    attempt, offer = messages.decode_offer(frame)
    for running in (history.running, history.hedge):
        if running is not None and running.spec.stage_type is _PROCESSING and running.attempt == attempt:
            running.offers = SentOffer(offer)
