"""The expected outcome of a started query, from what the executor double did with it.

The table of the contract (section 4), written independently of ``core.outcome``: the
judge compares every event with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fivestage.core.stage_run import RunningStage, StageRun
from fivestage_schemas import StageType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fivestage.core.job import Job

STAGES = tuple(StageType)
STAGE_KINDS = frozenset(f"stage_result/{number}" for number in range(5))
PROCESSING = 2
CRITICAL = 3
"""The number of critical stages: the first ones."""
ROUNDING_S = 1e-6
ROWS = frozenset(
    {
        "success",
        "degraded: error",
        "degraded: timeout",
        "degraded: skipped",
        "critical stage timed out",
        "timed out with an offer",
        "partial answer",
        "total ran out",
        "total ran out, answered",
        "critical stage failed",
        "rejected",
        "rejected is an error",
        "answered by a second node",
        "answered by a second node in time",
        "answered elsewhere",
        "result too large",
        "publish refused",
        "data left out",
        "expired before start",
        "would expire",
        "invalid query",
        "unreadable",
    }
)
"""The named rows of the table, some of them in parts."""

Stage = StageRun | RunningStage | None
"""A stage that ended, was running at the deadline, or was skipped."""


class Attempt(NamedTuple):
    """One attempt at a stage."""

    kind: str
    outcome: str
    run: StageRun | RunningStage


class QueryEnding(NamedTuple):
    """The expected result of one run of a query."""

    row: str
    status: str
    error_type: str | None
    degraded: bool
    validated: bool | None
    stages: tuple[Stage, ...]
    outcomes: tuple[str, ...]
    attempts: tuple[tuple[Attempt, ...], ...]
    """Of each stage, in order."""
    timeouts: tuple[str, ...]
    """The ends of the ids of its timeout events."""
    partial: bool
    """Its answer is one that a node offered."""
    ran_out: Stage
    """The stage that found no time left of the total; None where another event covers it."""

    @property
    def kinds(self) -> frozenset[str]:
        """Return the ends of the ids of all of its events."""
        return STAGE_KINDS.union(("result",), self.timeouts)


def ending_of(job: Job, *, rejects: bool) -> QueryEnding:
    """Return the expected outcome of an ended job; with *rejects* a rejected answer is an error."""
    stages = _stages(job)
    outcomes = tuple(map(_outcome, stages))
    late = [one for one, outcome in zip(stages, outcomes, strict=True) if outcome == "timeout"]
    ran_out = next((one for one in late if _is_at_the_end(one, job)), None)
    attempts = tuple(
        tuple(_attempts(job, number, stage, outcome))
        for number, (stage, outcome) in enumerate(zip(stages, outcomes, strict=True))
    )
    timeouts = [
        _timeout_id(number, attempt)
        for number, tried in enumerate(attempts)
        for attempt, one in enumerate(tried, 1)
        if one.outcome == "timeout" and one.run is not ran_out
    ]
    verdict = next(
        (one.verdict for one in stages if isinstance(one, StageRun) and one.spec.sequence == 3), None
    )
    last = _last(stages, outcomes, rejects=rejects)
    if ran_out is not None or (last is not None and outcomes[last] == "skipped"):
        timeouts.append("timeout")
    status, error_type = "success", None
    if last is not None:
        status, error_type = _failed(stages[last], outcomes[last], total="timeout" in timeouts)
    degraded = status == "success" and (verdict is False or set(outcomes) != {"success"})
    partial = job.history.offer is not None and (_goes_on(stages) if last is None else last == PROCESSING)
    ending = QueryEnding(
        "",
        status,
        error_type,
        degraded,
        verdict,
        stages,
        outcomes,
        attempts,
        tuple(timeouts),
        partial,
        ran_out,
    )
    return ending._replace(row=_row(ending))


def _attempts(job: Job, number: int, stage: Stage, outcome: str) -> Iterator[Attempt]:
    """Return all attempts at a stage: failed ones, ones lost to moves, and the last."""
    failed = {one.attempt: one for one in job.history.superseded if one.spec.sequence == number}
    moved = {one.attempt: one for one in job.history.moved if one.spec.sequence == number}
    last = stage.attempt if stage is not None and outcome != "skipped" else 1 + max([0, *failed, *moved])
    kind = "first"
    for attempt in range(1, last):
        if attempt in failed:
            yield Attempt(kind, str(failed[attempt].outcome), failed[attempt])
            kind = "failover"
        else:
            yield Attempt(kind, "skipped", moved[attempt])
            kind = "resumed"
    if stage is not None and outcome != "skipped":
        yield Attempt(kind, outcome, stage)


def _timeout_id(number: int, attempt: int) -> str:
    return f"timeout/{number}" if attempt == 1 else f"timeout/{number}/{attempt}"


def _stages(job: Job) -> tuple[Stage, ...]:
    history = job.history
    stages: list[Stage] = list(history.runs)
    if history.running is not None and history.running.spec.sequence == len(stages):
        stages.append(history.running)
    elif history.superseded and history.superseded[-1].spec.sequence == len(stages):
        stages.append(history.superseded[-1])
    return (*stages, *[None] * (5 - len(stages)))


def _outcome(stage: Stage) -> str:
    if stage is None:
        return "skipped"
    return str(stage.outcome) if isinstance(stage, StageRun) else "timeout"


def _is_at_the_end(stage: Stage, job: Job) -> bool:
    if not isinstance(stage, StageRun):
        return True
    assert stage.started_at is not None
    return stage.started_at + max(stage.granted_s, stage.duration_s) >= job.ends_at - ROUNDING_S


def _goes_on(stages: tuple[Stage, ...]) -> bool:
    """Return whether later stages run on an offered answer."""
    processing = stages[PROCESSING]
    return isinstance(processing, StageRun) and processing.partial


def _last(stages: tuple[Stage, ...], outcomes: tuple[str, ...], *, rejects: bool) -> int | None:
    """Return the stage that ended the query early; None if there is none."""
    for number, (stage, outcome) in enumerate(zip(stages, outcomes, strict=True)):
        rejected = isinstance(stage, StageRun) and stage.verdict is False and rejects
        failed = number < CRITICAL and outcome != "success"
        if rejected or (failed and not (number == PROCESSING and _goes_on(stages))):
            return number
    return None


def _failed(stage: Stage, outcome: str, *, total: bool) -> tuple[str, str | None]:
    if isinstance(stage, StageRun) and stage.verdict is False:
        return "error", "rejected"
    if total or outcome == "timeout":
        return "timeout", "timeout"
    assert isinstance(stage, StageRun)
    return "error", stage.error_type


def _row(ending: QueryEnding) -> str:
    answered = ending.status == "success"
    if ending.validated is False:
        return "rejected" if answered else "rejected is an error"
    if ending.partial:
        return "partial answer" if answered else "timed out with an offer"
    if "timeout" in ending.timeouts:
        return "total ran out, answered" if answered else "total ran out"
    if not answered:
        return "critical stage timed out" if ending.status == "timeout" else "critical stage failed"
    for outcome in ("timeout", "error", "skipped"):
        if outcome in ending.outcomes:
            return f"degraded: {outcome}"
    return _way(ending)


def _way(ending: QueryEnding) -> str:
    """Return the way in which a query got its answer."""
    tried = [one for attempts in ending.attempts for one in attempts]
    if any(one.outcome == "timeout" for one in tried):
        return "answered by a second node in time"
    if any(one.kind == "failover" for one in tried):
        return "answered by a second node"
    return "answered elsewhere" if any(one.kind == "resumed" for one in tried) else "success"
