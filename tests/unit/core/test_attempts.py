"""Which attempts there were at a stage, beside the one that it ended with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fivestage.core.attempts import earlier_attempts, kind_of

from .samples import (
    ERROR,
    PROCESSING,
    SKIPPED,
    STARTED_AT,
    SUCCESS,
    TIMEOUT,
    altered,
    concluded,
    ended,
    history_of,
    run_of,
    running_of,
)

if TYPE_CHECKING:
    from fivestage.core.stage_history import StageHistory, StageRun
    from fivestage_schemas import Outcome

NOW = STARTED_AT + 0.2


def failed(attempt: int, outcome: Outcome = ERROR) -> StageHistory:
    """A trail on which so many nodes have failed."""
    history = history_of(ended([SUCCESS] * 2))
    for number in range(1, attempt + 1):
        at = STARTED_AT + number * 0.02
        history.fail_over(run_of(PROCESSING, outcome, at=at, node=f"node-{number}", attempt=number))
    return history


def start(history: StageHistory, attempt: int, at_s: float) -> None:
    """An attempt at processing has started."""
    running = running_of(PROCESSING, at=STARTED_AT + at_s, granted_s=0.05)
    history.start(altered(running, attempt=attempt, node=f"node-{attempt}", waited_s=0.001))


def numbers(history: StageHistory, *runs: StageRun) -> list[tuple[int, str]]:
    """Number and outcome of the earlier attempts."""
    found = earlier_attempts(history, [*history.runs, *runs], NOW)
    return [(run.attempt, str(run.outcome)) for run in found]


def test_most_queries_have_none() -> None:
    """One attempt at each stage."""
    assert earlier_attempts(history_of(ended([SUCCESS] * 5)), ended([SUCCESS] * 5), NOW) == ()


def test_those_that_failed_are_all_there() -> None:
    """In the order in which they were made."""
    assert numbers(failed(3), run_of(PROCESSING, attempt=4)) == [(1, "error"), (2, "error"), (3, "error")]


def test_one_that_the_stage_ended_with_is_none_of_them() -> None:
    """Where no other followed; a worker process sends it a second time."""
    history = failed(2)
    assert numbers(history, history.superseded[-1]) == [(1, "error")]
    again = run_of(PROCESSING, ERROR, attempt=2)
    assert numbers(history, again) == [(1, "error")]


def test_one_that_was_given_up_lasts_until_the_next() -> None:
    """Its query was moved: its end is in no trail."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    history = history.continued()
    (given_up,) = earlier_attempts(
        history, [*history.runs, run_of(PROCESSING, at=STARTED_AT + 0.06, attempt=2)], NOW
    )
    assert (given_up.outcome, given_up.attempt, given_up.node) == (SKIPPED, 1, "node-1")
    assert given_up.duration_s == pytest.approx(0.04)
    assert (given_up.granted_s, given_up.waited_s) == (0.05, 0.001)


def test_one_that_was_given_up_and_not_followed_lasts_until_the_end() -> None:
    """The stage is skipped; what was tried is still there."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    (given_up,) = concluded(history.continued(), after_s=0.2).earlier
    assert given_up.duration_s == pytest.approx(0.18)


def test_a_call_that_goes_on_in_a_thread_is_not_given_up() -> None:
    """It is waited for elsewhere, as the same attempt; without anything that waits for it, it is one more."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    assert history.running is not None
    history.running.call = object()
    history = history.continued()
    assert numbers(history) == [(1, "skipped")]
    assert numbers(history, run_of(PROCESSING, attempt=1)) == []


def test_a_stage_that_its_worker_ended_was_not_given_up() -> None:
    """The attempt is what the stage ended with, although the query was moved for it."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    assert numbers(history.continued(), run_of(PROCESSING, ERROR, attempt=1)) == []


def test_failures_and_moves_together() -> None:
    """Each at the place of its number."""
    history = failed(1)
    start(history, 2, 0.05)
    history = history.continued()
    start(history, 3, 0.07)
    history.fail_over(run_of(PROCESSING, TIMEOUT, at=STARTED_AT + 0.07, attempt=3))
    assert numbers(history, run_of(PROCESSING, attempt=4)) == [(1, "error"), (2, "skipped"), (3, "timeout")]


def test_a_failure_that_the_stage_ended_with_hides_what_came_later() -> None:
    """What started after it, and was given up, is no attempt before it."""
    history = failed(1)
    start(history, 2, 0.05)
    history = history.continued()
    assert numbers(history, history.superseded[-1]) == []


def test_kinds() -> None:
    """The first one; after a failure another node; after a move the same once more."""
    first, second = run_of(PROCESSING, TIMEOUT), run_of(PROCESSING, attempt=2)
    assert [str(kind_of(first, None)), str(kind_of(second, first))] == ["first", "failover"]
    assert str(kind_of(second, altered(first, outcome=SKIPPED))) == "resumed"
