"""Values that several tests of the core share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from fivestage.core.codec.event_json import Envelope
from fivestage.core.outcome import conclude
from fivestage.core.plan import Plan
from fivestage.core.records import PlainRecord
from fivestage.core.stage_history import StageHistory
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage_schemas import Outcome, StageType

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fivestage.core.outcome import QueryOutcome

T = TypeVar("T")
INTENT, DECISION, PROCESSING, VALIDATION, REFLECTION = StageType
SUCCESS, TIMEOUT, ERROR, SKIPPED = Outcome
PLAN = Plan.of()
STARTED_AT = 1000.0
"""Monotonic seconds."""
STARTED_WALL = 1_750_000_000.5
"""Seconds since the epoch at STARTED_AT."""


def record(value: bytes | None = b"{}", **fields: Any) -> PlainRecord:
    """Build a record of the input topic."""
    return PlainRecord(**{"topic": "queries", "partition": 3, "offset": 42, "value": value, **fields})


def envelope(source: PlainRecord | None = None, **fields: Any) -> Envelope:
    """Build the fields that all events of one query share."""
    defaults: dict[str, Any] = {
        "query_id": "q-1",
        "lane": "canary",
        "started_wall": STARTED_WALL,
        "started_at": STARTED_AT,
    }
    return Envelope(source or record(key=b"k"), **{**defaults, **fields})


def run_of(
    stage: StageType,
    outcome: Outcome = SUCCESS,
    *,
    plan: Plan = PLAN,
    at: float = STARTED_AT,
    took_s: float = 0.01,
    granted_s: float | None = None,
    **fields: Any,
) -> StageRun:
    """Build an ended stage; its limit is the plan's unless given."""
    spec = plan.stages[list(StageType).index(stage)]
    if outcome is SKIPPED:
        return StageRun(spec, outcome, error="no time left", error_type="skipped")
    granted_s = spec.limit_s if granted_s is None else granted_s
    if outcome is SUCCESS:
        fields.setdefault("data_json", b'{"of":"%s"}' % stage.encode())
    else:
        fields.setdefault("error", "boom")
        fields.setdefault("error_type", "timeout" if outcome is TIMEOUT else "ValueError")
    return StageRun(spec, outcome, started_at=at, duration_s=took_s, granted_s=granted_s, **fields)


def altered(made: T, **fields: Any) -> T:
    """Return a run or a running stage with other fields."""
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def history_of(
    runs: Iterable[StageRun], running: RunningStage | None = None, answer: bytes = b"22"
) -> StageHistory:
    """Build a stage history of *runs*, with *running* in progress."""
    history = StageHistory()
    for run in runs:
        history.start(RunningStage(run.spec, run.started_at or 0.0, run.granted_s, run.node, run.attempt))
        if run.spec.stage_type is PROCESSING and run.success:
            history.answer_json, history.confidence = answer, 0.75
        history.finish(run)
    if running is not None:
        history.start(running)
    return history


def running_of(stage: StageType, *, at: float, granted_s: float, plan: Plan = PLAN) -> RunningStage:
    """Build a stage in progress."""
    spec = plan.stages[list(StageType).index(stage)]
    return RunningStage(spec, at, granted_s, "math" if stage is PROCESSING else None)


def ended(outcomes: Sequence[Outcome], *, plan: Plan = PLAN, **fields: Any) -> list[StageRun]:
    """Build the first stages in sequence, 10 ms each (a timeout takes its whole limit)."""
    runs: list[StageRun] = []
    at = STARTED_AT
    for stage, outcome in zip(StageType, outcomes, strict=False):
        took = plan.stages[len(runs)].limit_s if outcome is TIMEOUT else 0.01
        node: dict[str, Any] = {"node": "math"} if stage is PROCESSING and outcome is not SKIPPED else {}
        runs.append(run_of(stage, outcome, plan=plan, at=at, took_s=took, **node, **fields))
        at += took
    return runs


def concluded(
    history: StageHistory, *, plan: Plan = PLAN, after_s: float = 0.05, budget_s: float = 0.25
) -> QueryOutcome:
    """Return the outcome of a query from STARTED_AT that ends after *after_s* seconds."""
    ends_at = STARTED_AT + budget_s
    return conclude(history, plan, started_at=STARTED_AT, ends_at=ends_at, now=STARTED_AT + after_s)
