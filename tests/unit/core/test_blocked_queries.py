"""Queries in a stalled worker: when they move, and when their stages are overdue."""

from __future__ import annotations

import pytest

from fivestage import Plan, Query
from fivestage.core.blocked_queries import ASSUMED_SHARE, FURTHER_STALLS, SLACK_S, is_overdue, is_worth_moving
from fivestage.core.job import Job
from fivestage.core.routing_snapshot import StageRouting
from fivestage.core.stage_run import RunningStage, StageRun
from fivestage_schemas import Outcome

PLAN = Plan.of()
PROCESSING = 2


def processing(*, began_at: float = 0.0, needs_s: float = 0.0) -> Job:
    """Build a query of 250 ms from time 0 whose node is running, with the latency of processing."""
    job = Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=0.25)
    job.routing.stages = tuple(StageRouting(spec.limit_s, needs_s) for spec in PLAN.stages)
    job.history.runs = [StageRun(spec, Outcome.SUCCESS) for spec in PLAN.stages[:PROCESSING]]
    job.history.start(RunningStage(PLAN.stages[PROCESSING], began_at, 0.12))
    return job


@pytest.mark.parametrize(("now", "moves"), [(0.03, False), (0.189, False), (0.191, True)])
def test_a_query_moves_when_waiting_would_cost_its_answer(now: float, *, moves: bool) -> None:
    """It moves when the remaining time nears the latency of its stage and of later critical stages."""
    job = processing(needs_s=0.05)
    assert is_worth_moving(job, now, stalled_since=0.0, noticed_after_s=0.0) is moves


def test_it_moves_early_enough_to_move_again() -> None:
    """It moves early enough to move once more, as the blocking code may soon block the next loop."""
    job = processing(needs_s=0.05)
    latest = 0.25 - SLACK_S - 0.05 - FURTHER_STALLS * 0.02
    assert not is_worth_moving(job, latest - 0.001, stalled_since=0.0, noticed_after_s=0.02)
    assert is_worth_moving(job, latest + 0.001, stalled_since=0.0, noticed_after_s=0.02)


def test_an_unknown_stage_is_taken_to_need_half_of_its_limit() -> None:
    """A stage without samples is assumed to take half of its limit."""
    job = processing()
    latest = 0.25 - SLACK_S - ASSUMED_SHARE * 0.12
    assert not is_worth_moving(job, latest - 0.001, stalled_since=0.0, noticed_after_s=0.0)
    assert is_worth_moving(job, latest + 0.001, stalled_since=0.0, noticed_after_s=0.0)


def test_critical_stages_ahead_count() -> None:
    """A query in its first stage reserves time for decision and processing too."""
    job = processing(needs_s=0.05)
    job.history.runs.clear()
    job.history.start(RunningStage(PLAN.stages[0], 0.0, 0.05))
    latest = 0.25 - SLACK_S - 3 * 0.05
    assert not is_worth_moving(job, latest - 0.001, stalled_since=0.0, noticed_after_s=0.0)
    assert is_worth_moving(job, latest + 0.001, stalled_since=0.0, noticed_after_s=0.0)


def test_a_stall_is_waited_for_as_long_as_what_a_move_would_lose() -> None:
    """A stage that has waited 100 ms for its reply does not restart for a stall of 30 ms."""
    job = processing(needs_s=0.15)
    assert not is_worth_moving(job, 0.13, stalled_since=0.1, noticed_after_s=0.0)
    assert is_worth_moving(job, 0.2, stalled_since=0.1, noticed_after_s=0.0)


def test_a_call_in_a_thread_loses_nothing() -> None:
    """A call in a thread runs on during a stall: its query need not move."""
    job = processing(needs_s=0.15)
    assert job.history.running is not None
    job.history.running.call = object()
    assert is_worth_moving(job, 0.13, stalled_since=0.1, noticed_after_s=0.0)


def test_the_time_of_a_query_that_waits_for_a_thread_stands_still() -> None:
    """The clock of a query that waits for a thread is stopped until its loop stalls."""
    job = processing(needs_s=0.05)
    job.history.running, job.waits_since = None, 0.1
    assert not is_worth_moving(job, 5.0, stalled_since=5.0, noticed_after_s=0.0)
    assert not is_worth_moving(job, 5.089, stalled_since=5.0, noticed_after_s=0.0)
    assert is_worth_moving(job, 5.091, stalled_since=5.0, noticed_after_s=0.0)


def test_a_query_whose_stages_have_ended_stays() -> None:
    """A query without stages left stays."""
    job = processing()
    job.history.runs = [StageRun(spec, Outcome.SUCCESS) for spec in PLAN.stages]
    job.history.running = None
    assert not is_worth_moving(job, 0.24, stalled_since=0.0, noticed_after_s=0.0)


@pytest.mark.parametrize(("now", "overdue"), [(0.12, False), (0.139, False), (0.141, True), (0.26, False)])
def test_overdue(now: float, *, overdue: bool) -> None:
    """A stage is overdue after its limit and some grace, or at the query's deadline."""
    job = processing()
    assert job.history.running is not None
    assert is_overdue(job, job.history.running, now, grace_s=0.02) is overdue


@pytest.mark.parametrize(
    ("held_at", "now", "overdue"),
    [(0.15, 0.15, False), (0.15, 0.19, False), (0.15, 0.21, True), (0.05, 0.141, True)],
)
def test_a_stage_gets_back_the_time_that_its_loop_did_not_turn(
    held_at: float, now: float, *, overdue: bool
) -> None:
    """Time lost to a stall beyond the limit is added; during the stall the stage is not overdue."""
    job = processing()
    job.held_at = held_at
    assert job.history.running is not None
    assert is_overdue(job, job.history.running, now, grace_s=0.02) is overdue
