"""Learns from how each query ended: node health and times of stages by lane, and the concurrency limit."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.attempts import count_retries
from fivestage.core.outcome import CLOCK_SLACK_S
from fivestage_schemas import Outcome, PipelineStatus

if TYPE_CHECKING:
    from fivestage.core.adaptive.lane_state import LearnedState
    from fivestage.core.admission.slots import Slots
    from fivestage.core.job import Job
    from fivestage.core.observer import Observer
    from fivestage.core.outcome import QueryOutcome

_SKIPPED: Final = Outcome.SKIPPED
_SUCCEEDED: Final = PipelineStatus.SUCCESS
_TIMED_OUT: Final = PipelineStatus.TIMEOUT


class Learner:
    """Passes each outcome to what learns from it.

    Args:
        slots: Learns the concurrency limit.
        learned: The learned state of each lane.
        observer: Counts failovers, retries, hedges, and changes of the concurrency limit.
    """

    def __init__(self, slots: Slots[Any], learned: LearnedState, observer: Observer) -> None:
        self._slots = slots
        self._learned = learned
        self._observer = observer

    def learn(self, job: Job, outcome: QueryOutcome, now: float, *, ran: bool) -> None:
        """Learn from an outcome.

        Args:
            job: The query that has ended.
            outcome: How.
            now: Monotonic seconds.
            ran: Whether it ran to the end, rather than waiting for a thread.
        """
        superseded = outcome.superseded if outcome.earlier else []
        disturbed_at = -inf if job.is_blocking else max(job.held_at, self._learned.disturbed_at)
        lane = self._learned.lane(job.query.lane)
        lane.concluded(outcome, superseded, now, disturbed_at=disturbed_at)
        if outcome.earlier:
            lane.overtaken(outcome.earlier)
            self._note_further_calls(job.query.lane, outcome)
        late = outcome.status is _TIMED_OUT or outcome.partial
        whole = outcome.budget_s >= job.plan.total_s - CLOCK_SLACK_S
        counts = whole or self._slots.is_contended if late else outcome.status is _SUCCEEDED
        if ran and counts:
            self._learn_limit(job, outcome, now, late=late)

    def _note_further_calls(self, lane: str, outcome: QueryOutcome) -> None:
        """Count the attempts at processing that followed another one or ran beside it."""
        attempts = [run for run in outcome.earlier if run.outcome is not _SKIPPED or run.overtaken]
        if not attempts:
            return
        attempts.append(outcome.runs[attempts[-1].spec.sequence])
        in_turn = [run for run in attempts if not run.hedge]
        retries = count_retries(in_turn)
        if retries:
            self._observer.retried(lane, retries)
        if (failovers := len(in_turn) - 1 - retries) > 0:
            self._observer.failed_over(lane, failovers)
        for run in attempts:
            if run.hedge:
                self._observer.hedged(lane, run.outcome)

    def _learn_limit(self, job: Job, outcome: QueryOutcome, now: float, *, late: bool) -> None:
        """Adjust the concurrency limit; while queries wait, timeouts with shortened budgets count too."""
        change = self._slots.learn(
            now,
            duration_s=outcome.duration_s,
            started_among=job.started_among,
            dropped=late,
        )
        if change is not None:
            self._observer.control_changed(change)
