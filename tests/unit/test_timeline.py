"""The times of attempts, and how they are drawn."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from fivestage.cli.ruler import bar_line, draw
from fivestage.cli.timeline import Step, Timeline, steps_of
from fivestage_schemas import PipelineResult

STARTED_AT = datetime(2026, 1, 31, 12, tzinfo=UTC)


def stage(stage_type: str, at_ms: float | None, outcome: str = "success", **fields: Any) -> dict[str, Any]:
    """Return a stage result; *at_ms* is the start of its last attempt."""
    started_at = None if at_ms is None else STARTED_AT + timedelta(milliseconds=at_ms)
    return {
        "query_id": "q",
        "stage_type": stage_type,
        "sequence": 0,
        "outcome": outcome,
        "success": outcome == "success",
        "timeout": outcome == "timeout",
        "critical": True,
        "lane": "prod",
        "started_at": started_at,
        **fields,
    }


def result(*stages: dict[str, Any]) -> PipelineResult:
    """Return a result with these stages."""
    metrics = {
        **dict.fromkeys(("stages_completed", "stages_failed", "stages_skipped", "timeout_count"), 0),
        "total_duration_ms": 200,
        "queue_ms": 0,
        "budget_ms": 250,
        "within_budget": True,
        "stage_durations": {},
    }
    times = {"started_at": STARTED_AT, "finished_at": STARTED_AT}
    return PipelineResult.model_validate(
        {"query_id": "q", "status": "success", "lane": "prod", "stages": stages, "metrics": metrics, **times}
    )


def attempt(node: str, kind: str, outcome: str, **times: float) -> dict[str, Any]:
    """Return an attempt."""
    return {"node": node, "kind": kind, "outcome": outcome, **times}


FAILED_OVER = stage(
    "processing",
    90,
    duration_ms=30,
    timeout_ms=120,
    node="second",
    attempts=[
        attempt("first", "first", "timeout", duration_ms=60, timeout_ms=60),
        attempt("second", "failover", "success", duration_ms=30, timeout_ms=120, waited_ms=5),
    ],
)


def test_attempts_follow_each_other() -> None:
    """An attempt before the last one ends where that one, or its wait for a thread, began."""
    steps = steps_of(result(stage("intent", 1, duration_ms=4, timeout_ms=50), FAILED_OVER))
    assert [(step.stage, step.node, step.start_ms, step.end_ms) for step in steps] == [
        ("intent", None, 1.0, 5.0),
        ("processing", "first", 25.0, 85.0),
        ("processing", "second", 90.0, 120.0),
    ]


BUSY = stage(
    "processing",
    None,
    "error",
    node="second",
    error_type="node_busy",
    attempts=[
        attempt("first", "first", "error", duration_ms=10, timeout_ms=60, waited_ms=20),
        attempt("second", "failover", "error", waited_ms=100),
    ],
)


def test_a_node_that_was_not_called_is_shown_after_its_wait() -> None:
    """The wait for a slot is the node's, not a hole between the stages."""
    timeline = Timeline(steps_of(result(stage("intent", 0, duration_ms=5, timeout_ms=50), BUSY)), 250, 140)
    assert [(step.node, step.start_ms, step.end_ms) for step in timeline.steps[1:]] == [
        ("first", 25.0, 35.0),
        ("second", 135.0, 135.0),
    ]
    *_, line = drawn(timeline, 120)
    assert re.fullmatch(r" +0 / 0 +\.+x +second, failover, node_busy", line)


def test_attempts_before_a_skipped_stage() -> None:
    """A stage that was skipped after an attempt has that attempt, after the stage before it, and no more."""
    made = [attempt("first", "first", "skipped", duration_ms=60, timeout_ms=60)]
    steps = steps_of(
        result(
            stage("intent", 1, duration_ms=4),
            stage("processing", None, "skipped", attempts=made, error="no time left"),
        )
    )
    assert [(step.outcome, step.start_ms, step.note) for step in steps[1:]] == [
        ("skipped", 5.0, ""),
        ("skipped", None, "no time left"),
    ]


def test_results_without_attempts() -> None:
    """A result of a version that did not list attempts has one for each stage."""
    [step] = steps_of(result(stage("intent", 2, "timeout", duration_ms=50, timeout_ms=50)))
    assert (step.start_ms, step.end_ms, step.kind) == (2.0, 52.0, "first")


def drawn(timeline: Timeline, width: int, *, unicode: bool = False) -> list[str]:
    """Return the lines of a drawing."""
    return [line.plain for line in draw(timeline, width, unicode=unicode)]


TIMELINE = Timeline(
    [
        Step("intent", "success", start_ms=0.0, duration_ms=50.0, limit_ms=50.0),
        Step("processing", "timeout", "a", start_ms=50.0, duration_ms=100.0, limit_ms=100.0),
        Step("processing", "success", "b", "failover", 150.0, 50.0, 100.0),
        Step("validation", "skipped", note="no time left"),
    ],
    budget_ms=250.0,
    total_ms=200.0,
    queue_ms=1000.0,
    published_ms=210.0,
)


def test_drawing() -> None:
    """Bars are on the ruler of the budget, with the wait before it, limits, failures and the publication."""
    assert drawn(TIMELINE, 119) == [
        "                                 0         50        100       150       200    250",
        "queued         1000 ms <.........",
        "intent         50 / 50           ##########",
        "processing   100 / 100                     ###################x                      a, timeout",
        "              50 / 100                                         ##########         :  b, failover",
        "validation             skipped: no time left",
        "published       +10 ms                                                     *",
    ]


def test_published_late() -> None:
    """A publication long after the end is at the right end, with a sign; the stages keep their place."""
    lines = drawn(TIMELINE._replace(published_ms=60_200.0), 119)
    assert lines[2].endswith("########")
    assert lines[-1].split() == ["published", "+60000", "ms", ">"]
    at_the_end = drawn(TIMELINE._replace(published_ms=300.0), 119)[-1]
    assert at_the_end.split() == ["published", "+100", "ms", "*"]
    assert len(lines[-1]) == len(at_the_end)


def test_no_stage_started() -> None:
    """Where the whole time passed before the first stage, it is drawn as a hand-over."""
    skipped = [Step("intent", "skipped", note="no time left")]
    assert drawn(Timeline(skipped, 250.0, 250.0), 60)[1:] == [
        "hand-over       250 ms ..................................",
        "intent                 skipped: no time left",
    ]


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("unicode", [False, True])
def test_widths(width: int, unicode: bool) -> None:  # noqa: FBT001
    """Every width from 40 on is kept; without UTF-8 all characters are ASCII."""
    lines = drawn(TIMELINE, width, unicode=unicode)
    assert max(map(len, lines)) <= max(width, 44)
    assert all(line.isascii() for line in lines) is not unicode


@pytest.mark.parametrize(
    "timeline",
    [
        Timeline([], 0.0, 0.0),
        Timeline([Step("intent", "success", start_ms=-5.0, duration_ms=1e12)], 0.0, 1e12, 1e12, -5.0),
        Timeline([Step("intent", "success", None, "first", 1.7e308, 1.7e308, 1e308, 1e308)], *[1.7e308] * 4),
        Timeline([Step("intent", "success", start_ms=1.0, duration_ms=1.7e308)], 250.0, 250.0),
        Timeline([Step("intent", "?", "\x1b[2J\n", "?", 1e9, 0.0, 0.0, 1e9, "\x1b]0;")], 1.0, 0.0, 0.0),
    ],
)
def test_strange_times(timeline: Timeline) -> None:
    """Times that make no sense, and names with control characters, are drawn without an error."""
    for line in (*drawn(timeline, 80), bar_line(timeline, 20, unicode=False).plain):
        assert line.isprintable()


def test_one_line() -> None:
    """One line has the first letter of each stage where it ran, and a mark where an attempt failed."""
    assert bar_line(TIMELINE, 25, unicode=False).plain == "IIIIIPPPPPPPPPxPPPPP     "


def hedged(last: str, attempts: list[dict[str, Any]], at_ms: float, number: int, ms: float) -> dict[str, Any]:
    """Return a processing stage with hedges, which ended with a call of the node *last*."""
    return stage("processing", at_ms, node=last, attempts=attempts, attempt=number, duration_ms=ms)


FIRST = attempt("a", "first", "skipped", duration_ms=30)
HEDGE = attempt("b", "hedge", "success", duration_ms=10, waited_ms=20)
LATE = attempt("b", "hedge", "skipped", duration_ms=5, waited_ms=20)
ANSWER = attempt("a", "first", "success", duration_ms=25)
ERROR = attempt("a", "first", "error", duration_ms=25)
FAILED = attempt("b", "hedge", "error", duration_ms=15, waited_ms=20)
LOST = attempt("a", "first", "error", duration_ms=30)
ENDED = {"success": False}
THIRD = attempt("c", "failover", "success", duration_ms=10, waited_ms=1)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (hedged("b", [FIRST, HEDGE], 60, 2, 10), [("a", 40, 70, True), ("b", 60, 70, False)]),
        (hedged("a", [LATE, ANSWER], 40, 1, 25), [("a", 40, 65, False), ("b", 60, 65, True)]),
        (
            hedged("c", [ERROR, FAILED, THIRD], 76, 3, 10),
            [("a", 40, 65, False), ("b", 60, 75, False), ("c", 76, 86, False)],
        ),
        (
            hedged("c", [ERROR, LATE, THIRD], 66, 2, 10),
            [("a", 40, 65, False), ("c", 66, 76, False), ("b", 86, 91, True)],
        ),
        (
            hedged("a", [LATE, LOST], 40, 1, 30) | ENDED | {"outcome": "error", "error_type": "worker_died"},
            [("a", 40, 70, False), ("b", 60, 65, False)],
        ),
        (
            hedged("a", [LATE, LOST | {"outcome": "timeout"}], 40, 1, 30) | ENDED | {"outcome": "timeout"},
            [("a", 40, 70, False), ("b", 60, 65, False)],
        ),
    ],
    ids=["won", "lost", "both failed", "of the failover", "lost with its worker", "until the end"],
)
def test_hedges_run_beside_another_call(
    given: dict[str, Any], expected: list[tuple[str, float, float, bool]]
) -> None:
    """A hedge began its wait after the start of the call beside it, whichever of them ended the stage."""
    steps = steps_of(result(given))
    found = [(one.node, round(one.start_ms or 0), round(one.end_ms), one.overtaken) for one in steps]
    assert found == expected
    lines = [str(line) for line in draw(Timeline(steps, 250, 100), 100, unicode=True)]
    assert sum("overtaken" in line for line in lines) == sum(one[3] for one in expected)
