"""The times of the attempts at the stages of a query, from its published result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from fivestage.core.why import has_overtaken
from fivestage_schemas import AttemptKind, Outcome

if TYPE_CHECKING:
    from fivestage_schemas import PipelineResult, StageResult
    from fivestage_schemas.stage_result import Attempt

_HEDGE: Final = AttemptKind.HEDGE


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
    overtaken: bool = False
    """It was given up because the call beside it had answered."""

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
    if any(attempt.kind is AttemptKind.HEDGE for attempt in stage.attempts):
        return _hedged_steps(stage, last_ms, earliest_ms)
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


def _hedged_steps(stage: StageResult, last_ms: float | None, earliest_ms: float) -> list[Step]:
    """List the attempts at a stage with hedges, each of which waited from the start of the call beside it.

    The attempt that ended the stage is the last one, so its hedges come before it.
    """
    groups = _groups(stage)
    spans = [
        max(one.duration_ms + (one.waited_ms if one.kind is _HEDGE else 0.0) for one in g) for g in groups
    ]
    last = stage.attempts[-1]
    overtaken = has_overtaken(stage)
    if last_ms is None:
        start = earliest_ms
    else:
        gone = sum(spans[:-1]) + sum(group[0].waited_ms for group in groups[1:])
        start = last_ms - gone - (last.waited_ms if last.kind is _HEDGE else 0.0)
    found: list[Step] = []
    for number, (group, span) in enumerate(zip(groups, spans, strict=True)):
        start += group[0].waited_ms if number else 0.0
        for one in group:
            at = start + (one.waited_ms if one.kind is _HEDGE else 0.0)
            times = at, one.duration_ms, one.timeout_ms, one.waited_ms
            error_type = stage.error_type if one is last else None
            step = Step(stage.stage_type, str(one.outcome), one.node, str(one.kind), *times, error_type)
            found.append(step._replace(overtaken=one.outcome is Outcome.SKIPPED and overtaken))
        start += span
    if stage.outcome is Outcome.SKIPPED:
        found.append(Step(stage.stage_type, "skipped", note=stage.error or ""))
    return found


def _groups(stage: StageResult) -> list[list[Attempt]]:
    """Put each call and its hedges together, the call first."""
    *before, last = stage.attempts
    is_skipped = stage.outcome is Outcome.SKIPPED
    # Hedges of the call that ended the stage have higher numbers, although they come before it.
    own = 0 if is_skipped or last.kind is _HEDGE else max(0, len(stage.attempts) - stage.attempt)
    groups: list[list[Attempt]] = []
    for attempt in (*before[: len(before) - own], last):
        if attempt.kind is _HEDGE and groups:
            groups[-1].append(attempt)
        else:
            groups.append([attempt])
    groups[-1] += before[len(before) - own :]
    return groups


class Timeline(NamedTuple):
    """What is drawn; all times in milliseconds since the start of the query."""

    steps: Sequence[Step]
    budget_ms: float
    total_ms: float
    queue_ms: float = 0.0
    published_ms: float | None = None
