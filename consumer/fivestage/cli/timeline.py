"""The times of the attempts at the stages of a query, from its published result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from fivestage_schemas import AttemptKind, Outcome

if TYPE_CHECKING:
    from fivestage_schemas import PipelineResult, StageResult


class Step(NamedTuple):
    """A line of a timeline: an attempt at a stage, or a stage that was not started."""

    stage: str
    outcome: str
    node: str | None = None
    kind: str = AttemptKind.FIRST
    start_ms: float | None = None
    """Since the start of the query; None if nothing was started."""
    duration_ms: float = 0.0
    limit_ms: float = 0.0
    waited_ms: float = 0.0
    """Before the start: for a thread, a slot of the node, or a retry."""
    error_type: str | None = None
    note: str = ""
    """Why it was skipped."""
    offered: bool = False
    """It offered the answer of a partial result."""

    @property
    def end_ms(self) -> float:
        """When it ended, since the start of the query."""
        return (self.start_ms or 0.0) + self.duration_ms


def steps_of(result: PipelineResult) -> list[Step]:
    """List the attempts at all stages with their times since the start of the query.

    An event has the start of a stage's last attempt; each attempt before it ended where the next one began.
    """
    found: list[Step] = []
    for stage in result.stages:
        at = None
        if stage.started_at is not None and result.started_at is not None:
            at = (stage.started_at - result.started_at).total_seconds() * 1000
        found += _steps(stage, at, max((step.end_ms for step in found), default=0.0))
    if result.partial:
        _mark_offer(found, result.node)
    return found


def _mark_offer(steps: list[Step], node: str | None) -> None:
    """Mark the last attempt of the node that offered the answer."""
    last = max((number for number, step in enumerate(steps) if step.node == node), default=None)
    if last is not None:
        steps[last] = steps[last]._replace(offered=True)


def _steps(stage: StageResult, last_ms: float | None, earliest_ms: float) -> list[Step]:
    """List the attempts at a stage; the last one started at *last_ms*, if it did.

    A node that was not called counts as an attempt without a duration, after any wait for it.
    """
    skipped = stage.outcome is Outcome.SKIPPED
    before = stage.attempts if skipped else stage.attempts[:-1]
    waits = [attempt.waited_ms for attempt in stage.attempts[1:]]
    gone = sum(attempt.duration_ms for attempt in before) + sum(waits)
    if last_ms is None and not skipped and stage.attempts:
        last_ms = earliest_ms + stage.attempts[0].waited_ms + gone
    start = earliest_ms if last_ms is None else max(earliest_ms, last_ms - gone)
    found: list[Step] = []
    for attempt in before:
        start += attempt.waited_ms if found else 0.0
        kind, outcome = str(attempt.kind), str(attempt.outcome)
        times = attempt.duration_ms, attempt.timeout_ms, attempt.waited_ms
        found.append(Step(stage.stage_type, outcome, attempt.node, kind, start, *times))
        start += attempt.duration_ms
    if skipped:
        return [*found, Step(stage.stage_type, "skipped", note=stage.error or "")]
    last = stage.attempts[-1] if stage.attempts else None
    kind, waited_ms = (str(last.kind), last.waited_ms) if last else (AttemptKind.FIRST, 0.0)
    times = stage.duration_ms, stage.timeout_ms, waited_ms
    return [
        *found,
        Step(stage.stage_type, stage.outcome, stage.node, kind, last_ms, *times, stage.error_type),
    ]


class Timeline(NamedTuple):
    """What is drawn; all times in milliseconds since the start of the query."""

    steps: Sequence[Step]
    budget_ms: float
    total_ms: float
    queue_ms: float = 0.0
    published_ms: float | None = None
