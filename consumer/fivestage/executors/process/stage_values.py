"""The values of stages in frames. Pure.

Those from a worker are checked: their kinds, and that there is such a stage, attempt and time. The user's
code may write into its process's memory.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING, Any, Final

from fivestage.core.stage_run import RunningStage, StageRun
from fivestage.executors.process.frames import Kinds, checked
from fivestage_schemas import Outcome

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fivestage.core.plan import Plan, StageSpec

_OUTCOMES: Final = {outcome.value: outcome for outcome in Outcome}
DATA_SIZE: Final = 2
"""The index of the size of the data among the values of a run."""
_IS_INTERPRETED: Final = isinstance(StageRun.__init__, FunctionType)
"""Compiled, the constructors of runs and running stages check the kinds of their arguments, at no cost."""
_MAX_ATTEMPT: Final = 1 << 31
_MAX_S: Final = 1e10
"""No time is larger: what is made of larger ones would not fit into an event."""
NONE: Final = type(None)
NUMBER: Final = (int, float)
TEXT: Final = (str, NONE)
_RUNNING_KINDS: Final[Kinds] = (int, NUMBER, NUMBER, TEXT, int, bool, NUMBER, bool, bool, bool)
_RUN_KINDS: Final[Kinds] = (
    int, str, (int, NONE), TEXT, TEXT, TEXT, int,
    (*NUMBER, NONE), NUMBER, NUMBER, bool, (bool, NONE), bool, NUMBER,
    TEXT, bool, bool, bool, bool, bool, bool,
)  # fmt: skip


def stage_of(plan: Plan, sequence: int, attempt: int) -> StageSpec:
    """Return a stage; raise ValueError or IndexError if there is no such stage or attempt."""
    if sequence < 0 or not 0 < attempt < _MAX_ATTEMPT:
        raise ValueError("no such attempt")
    return plan.stages[sequence]


def arguments(values: list[Any], kinds: Kinds) -> list[Any]:
    """Return the arguments of a constructor of compiled code; raise TypeError if they are of other kinds."""
    return checked(values, kinds) if _IS_INTERPRETED else values


def check_times(*times: float) -> None:
    """Raise ValueError for a time that an event cannot show."""
    for seconds in times:
        if not -_MAX_S < seconds < _MAX_S:
            raise ValueError("no such time")


def values_of_running(stage: RunningStage) -> Sequence[Any]:
    """Return the values of a stage that runs."""
    return (
        stage.spec.sequence, stage.started_at, stage.granted_s, stage.node, stage.attempt,
        stage.probe, stage.waited_s, stage.counted, stage.capped, stage.hedge,
    )  # fmt: skip


def running_of(values: list[Any], plan: Plan) -> RunningStage:
    """Return the stage with these values; raise ValueError, TypeError or LookupError if there is none."""
    (
        sequence, started_at, granted_s, node, attempt, probe, waited_s, counted, capped, hedge,
    ) = arguments(values, _RUNNING_KINDS)  # fmt: skip
    check_times(started_at, granted_s, waited_s)
    spec = stage_of(plan, sequence, attempt)
    return RunningStage(spec, started_at, granted_s, node, attempt, probe, waited_s, counted, capped, hedge)


def values_of_run(run: StageRun) -> Sequence[Any]:
    """Return the values of a stage that has ended; of its data, which goes into the blob, the size."""
    size = None if run.data_json is None else len(run.data_json)
    return (
        run.spec.sequence, run.outcome, size, run.error, run.error_type, run.node, run.attempt,
        run.started_at, run.duration_s, run.granted_s, run.probe, run.verdict, run.excused, run.waited_s,
        run.where, run.partial, run.counted, run.capped, run.keeps_offer, run.hedge, run.overtaken,
    )  # fmt: skip


def run_of(values: list[Any], data: bytes | None, plan: Plan) -> StageRun:
    """Return the run with these values; raise ValueError, TypeError or LookupError if there is none."""
    # Each value by its name: compiled, ``*values`` would take seven times as long.
    (
        sequence, outcome, _, error, error_type, node, attempt,
        started_at, duration_s, granted_s, probe, verdict, excused, waited_s,
        where, partial, counted, capped, keeps_offer, hedge, overtaken,
    ) = arguments(values, _RUN_KINDS)  # fmt: skip
    check_times(started_at or 0.0, duration_s, granted_s, waited_s)
    return StageRun(
        stage_of(plan, sequence, attempt), _OUTCOMES[outcome], data, error, error_type, node, attempt,
        started_at, duration_s, granted_s, probe, verdict, excused, waited_s,
        where, partial, counted, capped, keeps_offer, hedge, overtaken,
    )  # fmt: skip
