"""Decides how a query ends: the table of the contract, as a pure function of the stage history."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.attempts import earlier_attempts
from fivestage.core.plan import StageSpec
from fivestage.core.stage_run import StageRun
from fivestage.core.tuples import new
from fivestage_schemas import Outcome, PipelineStatus, StageType, TimeoutReason, TimeoutScope

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.offer import Offer
    from fivestage.core.plan import Plan
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import RunningStage

_PROCESSING: Final = list(StageType).index(StageType.PROCESSING)
_VALIDATION: Final = list(StageType).index(StageType.VALIDATION)
_SUCCESS: Final = Outcome.SUCCESS
_SKIPPED: Final = Outcome.SKIPPED
_SUCCEEDED: Final = PipelineStatus.SUCCESS
_REJECTED: Final = "Validation rejected the answer"
NO_THREAD: Final = "no thread was free for its call: executor.threads of them were busy"
CLOCK_SLACK_S = 1e-6
"""Seconds by which two sums of the same floats may differ, as they are rounded."""


def microseconds(seconds: float) -> int:
    """Round to whole microseconds, as events show times: ``event_json`` has it inline for each of them."""
    return int(seconds * 1e6 + 0.5)


class TimeoutNote(NamedTuple):
    """The content of a TimeoutEvent."""

    scope: TimeoutScope
    reason: TimeoutReason
    spec: StageSpec | None
    node: str | None
    limit_s: float
    elapsed_s: float
    completed: tuple[StageType, ...]
    attempt: int = 1


class QueryOutcome(NamedTuple):
    """How a query that was started ended."""

    status: PipelineStatus
    runs: tuple[StageRun, ...]
    timeouts: tuple[TimeoutNote, ...]
    started_at: float
    duration_s: float
    budget_s: float
    answer_json: bytes | None = None
    confidence: float | None = None
    degraded: bool = False
    error: str | None = None
    error_type: str | None = None
    node: str | None = None
    validated: bool | None = None
    """The verdict of validation; None if there is none."""
    earlier: tuple[StageRun, ...] = ()
    """The superseded attempts at the stages, in order. Those abandoned when the query was moved have the
    outcome skipped."""
    partial: bool = False
    """The answer is the last one offered, since processing did not end with one."""

    @property
    def superseded(self) -> list[StageRun]:
        """The attempts that failed and were followed by another one."""
        return [run for run in self.earlier if run.outcome is not _SKIPPED]

    @property
    def within_budget(self) -> bool:
        """Whether the query ended before its deadline, and not because its total time ran out.

        To the microsecond, as events show these times: both are differences of floats.
        """
        if self.duration_s > self.budget_s and microseconds(self.duration_s) > microseconds(self.budget_s):
            return False
        return not self.timeouts or all(note.scope is not TimeoutScope.PIPELINE for note in self.timeouts)


def conclude(
    history: StageHistory, plan: Plan, *, started_at: float, ends_at: float, now: float
) -> QueryOutcome:
    """Decide how a query ends, from its stage history at *now*.

    Called when the executor is done with the query, or at the deadline: a stage that is still running is then
    a timeout. Stages that have not started are skipped. All times are monotonic seconds.
    """
    ended, running = history.snapshot()
    superseded = tuple(history.superseded)
    if len(ended) == len(plan.stages) and all_succeeded(ended) and ended[_VALIDATION].verdict is not False:
        earlier = earlier_attempts(history, ended, now) if superseded or history.moved else ()
        return _success(history, ended, earlier, started_at=started_at, ends_at=ends_at, now=now)
    if running is None and superseded and len(ended) == superseded[-1].spec.sequence:
        ended = (*ended, superseded[-1])  # no further attempt was started
    runs = ended
    if len(ended) < len(plan.stages):
        waits = history.waiting is not None
        runs = _complete(ended, running, plan, ends_at=ends_at, now=now, waits=waits)
    failed = _first_that_ends(runs)
    earlier = earlier_attempts(history, runs, now)
    timeouts = _timeouts(runs, earlier, started_at=started_at, ends_at=ends_at, now=now, failed=failed)
    status, error, error_type = _verdict(failed, timeouts, budget_s=ends_at - started_at)
    succeeded, verdict = status is PipelineStatus.SUCCESS, runs[_VALIDATION].verdict
    # The executor writes the answer before it ends the stage; if the query ends in between, it has no answer.
    answered = succeeded and runs[_PROCESSING].success
    offer = _partial_answer(history, runs[_PROCESSING], failed)
    return QueryOutcome(
        status=status,
        runs=runs,
        timeouts=timeouts,
        started_at=started_at,
        duration_s=now - started_at,
        budget_s=ends_at - started_at,
        answer_json=history.answer_json if answered else offer and offer.answer_json,
        confidence=history.confidence if answered else offer and offer.confidence,
        degraded=succeeded and (verdict is False or not all(run.success for run in runs)),
        error=error,
        error_type=error_type,
        node=next((run.node for run in runs if run.node), None) if offer is None else offer.node,
        validated=verdict,
        earlier=earlier,
        partial=offer is not None,
    )


def _partial_answer(history: StageHistory, processing: StageRun, failed: StageRun | None) -> Offer | None:
    """The offer that is the answer: later stages ran on it, or the query ended because processing failed.

    No offer counts if a node raised because the query has no answer.
    """
    counts = processing.partial if failed is None else failed is processing and not processing.excused
    return history.last_offer() if counts and not processing.success else None


def all_succeeded(runs: tuple[StageRun, ...]) -> bool:
    """Whether all stages succeeded, as in nearly all queries."""
    for run in runs:  # noqa: SIM110 - a generator would cost twice as much
        if run.outcome is not _SUCCESS:
            return False
    return True


def _success(
    history: StageHistory,
    runs: tuple[StageRun, ...],
    earlier: tuple[StageRun, ...],
    *,
    started_at: float,
    ends_at: float,
    now: float,
) -> QueryOutcome:
    """The outcome of a query without failures, as the general rules give it: a fast path for nearly all."""
    return new(
        QueryOutcome,
        (
            _SUCCEEDED,
            runs,
            _late_attempts(runs, earlier) if earlier else (),
            started_at,
            now - started_at,
            ends_at - started_at,
            history.answer_json,
            history.confidence,
            False,
            None,
            None,
            runs[_PROCESSING].node,
            runs[_VALIDATION].verdict,
            earlier,
            False,
        ),
    )


def _complete(
    ended: tuple[StageRun, ...],
    running: RunningStage | None,
    plan: Plan,
    *,
    ends_at: float,
    now: float,
    waits: bool,
) -> tuple[StageRun, ...]:
    """The runs of all five stages: the ended ones, the interrupted one, and the rest as skipped."""
    runs = list(ended)
    abandoned = runs[-1] if runs and running is None and now < ends_at - CLOCK_SLACK_S else None
    if running is not None:
        runs.append(interrupted(running, now, "was running at the deadline"))
    failed = _first_that_ends(runs) or abandoned
    reason = NO_THREAD if waits else "no time left"
    if failed is not None:
        reason = f"{failed.spec.stage_type} did not succeed"
    if failed is not None and failed.verdict is False:
        reason = _REJECTED
    runs += [
        StageRun(spec, Outcome.SKIPPED, error=reason, error_type="skipped")
        for spec in plan.stages[len(runs) :]
    ]
    return tuple(runs)


def interrupted(running: RunningStage, now: float, what: str) -> StageRun:
    """The run of a stage that is abandoned at *now*; *what* is the reason."""
    after_s = min(running.granted_s, now - running.started_at)
    error = f"timed out after {after_s * 1000:.0f} ms: it {what}"
    return running.end(now, Outcome.TIMEOUT, error, "timeout")


def _first_that_ends(runs: Sequence[StageRun]) -> StageRun | None:
    return next((run for run in runs if run.ends_query), None)


def _timeouts(
    runs: tuple[StageRun, ...],
    earlier: tuple[StageRun, ...],
    *,
    started_at: float,
    ends_at: float,
    now: float,
    failed: StageRun | None,
) -> tuple[TimeoutNote, ...]:
    """A note for each attempt that exceeded its own limit, and one note if the total time ran out."""
    late = [run for run in runs if run.outcome is Outcome.TIMEOUT]
    # Not for the second of two calls that ran until the deadline.
    notes = [*_late_attempts(runs, [run for run in earlier if not _ran_to_the_end(run, ends_at)])]
    notes += [_stage_note(run, runs) for run in late if not _ran_to_the_end(run, ends_at)]
    at_the_end = next((run for run in late if _ran_to_the_end(run, ends_at)), None)
    if at_the_end is not None:
        notes.append(_pipeline_note(at_the_end, runs, started_at, ends_at, now))
    elif failed is not None and failed.outcome is Outcome.SKIPPED:
        notes.append(_pipeline_note(None, runs, started_at, ends_at, now))
    return tuple(notes)


def _ran_to_the_end(run: StageRun, ends_at: float) -> bool:
    """Whether a stage ran until the query's deadline, or its grant reached there: the total time ran out."""
    took_s = max(run.granted_s, run.duration_s)
    return run.started_at is not None and run.started_at + took_s >= ends_at - CLOCK_SLACK_S


def _late_attempts(runs: tuple[StageRun, ...], earlier: Sequence[StageRun]) -> tuple[TimeoutNote, ...]:
    """A note for each superseded attempt that timed out."""
    return tuple([_stage_note(run, runs) for run in earlier if run.outcome is Outcome.TIMEOUT])


def _stage_note(run: StageRun, runs: tuple[StageRun, ...]) -> TimeoutNote:
    before = tuple(r.spec.stage_type for r in runs if r.success and r.spec.sequence < run.spec.sequence)
    scope, reason = TimeoutScope.STAGE, TimeoutReason.STAGE_TIMEOUT
    times = run.granted_s, run.duration_s
    return TimeoutNote(scope, reason, run.spec, run.node, *times, before, run.attempt)


def _pipeline_note(
    run: StageRun | None, runs: tuple[StageRun, ...], started_at: float, ends_at: float, now: float
) -> TimeoutNote:
    completed = tuple(r.spec.stage_type for r in runs if r.success)
    scope, reason = TimeoutScope.PIPELINE, TimeoutReason.PIPELINE_TIMEOUT
    spec, node = (run.spec, run.node) if run else (None, None)
    return TimeoutNote(scope, reason, spec, node, ends_at - started_at, now - started_at, completed)


def _verdict(
    failed: StageRun | None, timeouts: tuple[TimeoutNote, ...], *, budget_s: float
) -> tuple[PipelineStatus, str | None, str | None]:
    if failed is None:
        return PipelineStatus.SUCCESS, None, None
    if failed.verdict is False:
        return PipelineStatus.ERROR, f"{_REJECTED}: {failed.error}" if failed.error else _REJECTED, "rejected"
    if any(note.scope is TimeoutScope.PIPELINE for note in timeouts):
        return PipelineStatus.TIMEOUT, f"Pipeline timeout exceeded ({budget_s * 1000:.0f} ms)", "timeout"
    stage = failed.spec.stage_type.capitalize()
    if failed.outcome is Outcome.TIMEOUT:
        return PipelineStatus.TIMEOUT, f"{stage} timed out after {failed.granted_s * 1000:.0f} ms", "timeout"
    return PipelineStatus.ERROR, f"{stage} failed: {failed.error}", failed.error_type
