"""Earlier attempts at a stage, besides the one that ended it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fivestage.core.attempts import earlier_attempts, kind_of, with_kinds

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
    from fivestage.core.stage_history import StageHistory
    from fivestage.core.stage_run import StageRun
    from fivestage_schemas import Outcome

NOW = STARTED_AT + 0.2


def failed(attempt: int, outcome: Outcome = ERROR) -> StageHistory:
    """Build a stage history in which this many nodes have failed."""
    history = history_of(ended([SUCCESS] * 2))
    for number in range(1, attempt + 1):
        at = STARTED_AT + number * 0.02
        history.fail_over(run_of(PROCESSING, outcome, at=at, node=f"node-{number}", attempt=number))
    return history


def start(history: StageHistory, attempt: int, at_s: float) -> None:
    """Start an attempt at processing."""
    running = running_of(PROCESSING, at=STARTED_AT + at_s, granted_s=0.05)
    history.start(altered(running, attempt=attempt, node=f"node-{attempt}", waited_s=0.001))


def numbers(history: StageHistory, *runs: StageRun) -> list[tuple[int, str]]:
    """Return number and outcome of the earlier attempts."""
    found = earlier_attempts(history, [*history.runs, *runs], NOW)
    return [(run.attempt, str(run.outcome)) for run in found]


def test_most_queries_have_none() -> None:
    """Without failures each stage has one attempt."""
    assert earlier_attempts(history_of(ended([SUCCESS] * 5)), ended([SUCCESS] * 5), NOW) == ()


def test_all_failed_attempts_are_listed() -> None:
    """Failed attempts are listed in order."""
    assert numbers(failed(3), run_of(PROCESSING, attempt=4)) == [(1, "error"), (2, "error"), (3, "error")]


def test_the_attempt_that_ended_the_stage_is_not_listed() -> None:
    """A failed attempt that ended the stage is not listed, also when a worker sends it twice."""
    history = failed(2)
    assert numbers(history, history.superseded[-1]) == [(1, "error")]
    again = run_of(PROCESSING, ERROR, attempt=2)
    assert numbers(history, again) == [(1, "error")]


def test_one_that_was_given_up_lasts_until_the_next() -> None:
    """An attempt whose query was moved lasts until the next one starts."""
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
    """An attempt whose query was moved and not retried lasts until the query ends; the stage is skipped."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    (given_up,) = concluded(history.continued(), after_s=0.2).earlier
    assert given_up.duration_s == pytest.approx(0.18)


def test_a_call_that_goes_on_in_a_thread_is_not_given_up() -> None:
    """A thread call that another worker waits for is the same attempt; without a waiter it is one more."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    assert history.running is not None
    history.running.call = object()
    history = history.continued()
    assert numbers(history) == [(1, "skipped")]
    assert numbers(history, run_of(PROCESSING, attempt=1)) == []


def test_a_stage_that_its_worker_ended_was_not_given_up() -> None:
    """A stage that its worker ended is no lost attempt, although the query was moved for it."""
    history = history_of(ended([SUCCESS] * 2))
    start(history, 1, 0.02)
    assert numbers(history.continued(), run_of(PROCESSING, ERROR, attempt=1)) == []


def test_failures_and_moves_together() -> None:
    """Failures and moves are listed by attempt number."""
    history = failed(1)
    start(history, 2, 0.05)
    history = history.continued()
    start(history, 3, 0.07)
    history.fail_over(run_of(PROCESSING, TIMEOUT, at=STARTED_AT + 0.07, attempt=3))
    assert numbers(history, run_of(PROCESSING, attempt=4)) == [(1, "error"), (2, "skipped"), (3, "timeout")]


def test_a_failure_that_the_stage_ended_with_hides_what_came_later() -> None:
    """Attempts after the failure that ended the stage are not listed."""
    history = failed(1)
    start(history, 2, 0.05)
    history = history.continued()
    assert numbers(history, history.superseded[-1]) == []


def test_kinds() -> None:
    """The kinds are: first, other node after a failure, same node after a move."""
    first, second = run_of(PROCESSING, TIMEOUT), run_of(PROCESSING, attempt=2)
    assert [str(kind_of(first, None)), str(kind_of(second, first))] == ["first", "failover"]
    assert str(kind_of(second, altered(first, outcome=SKIPPED))) == "resumed"


def test_a_failed_hedge_is_not_why_the_next_attempt_was_made() -> None:
    """A retry stays one, and so does a call that was started again; a hedge that was moved is followed."""
    assert kinds(call(1), hedge(3), call(2)) == ["first", "hedge", "retry"]
    assert kinds(call(1, SKIPPED), hedge(2), call(3)) == ["first", "hedge", "resumed"]
    assert kinds(call(1), hedge(2, SKIPPED), call(3)) == ["first", "hedge", "resumed"]


def call(attempt: int, outcome: Outcome = ERROR) -> StageRun:
    """Return a call of one node."""
    return altered(run_of(PROCESSING, ERROR, attempt=attempt, node="a"), outcome=outcome)


def hedge(attempt: int, outcome: Outcome = ERROR) -> StageRun:
    """Return a call of another node beside it."""
    return altered(run_of(PROCESSING, ERROR, attempt=attempt, node="b", hedge=True), outcome=outcome)


def kinds(*attempts: StageRun) -> list[str]:
    """Return why each of the attempts was made."""
    return [str(kind) for _, kind in with_kinds(attempts)]
