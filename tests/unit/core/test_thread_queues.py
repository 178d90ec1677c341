"""The bounded wait of queries for a thread."""

from __future__ import annotations

import pytest

from fivestage import Plan, Query
from fivestage.core.admission.thread_queues import PATIENCE, ThreadQueues
from fivestage.core.job import Job

PLAN = Plan.of(total_timeout_ms=250)
PATIENT_S = PATIENCE * 0.25


def job(*, budget_s: float = 0.25, due_at: float | None = None) -> Job:
    """Build a job of a query that started at 0."""
    return Job(Query("q", "text"), PLAN, started_at=0.0, ends_at=budget_s, due_at=due_at)


def test_the_wait_renews_while_the_queue_moves() -> None:
    """A started call renews the wait of the others of its pool only."""
    queues = ThreadQueues()
    first, second, other = job(), job(budget_s=0.01), job()
    queues.enter(first, "pool", 1.0)
    queues.enter(other, "other pool", 1.0)
    queues.enter(second, "pool", 1.2)
    assert queues.ends_at(second) == pytest.approx(1.0 + PATIENT_S)
    queues.leave(first, 1.5)
    assert (queues.ends_at(second), queues.ends_at(other)) == pytest.approx(
        (1.5 + PATIENT_S, 1.0 + PATIENT_S)
    )
    assert (len(queues), first.waits_since, second.waits_since) == (2, None, 1.2)


def test_one_that_gives_up_is_no_progress() -> None:
    """An expired wait does not count as progress."""
    queues = ThreadQueues()
    first, second = job(), job()
    queues.enter(first, "pool", 1.0)
    queues.enter(second, "pool", 1.0)
    queues.leave(first)
    assert queues.ends_at(second) == pytest.approx(1.0 + PATIENT_S)


def test_an_empty_queue_is_forgotten() -> None:
    """After its queue was empty the next query has the whole wait."""
    queues = ThreadQueues()
    queues.enter(first := job(), "pool", 1.0)
    queues.leave(first)
    queues.enter(first, "pool", 9.0)
    assert queues.ends_at(first) == pytest.approx(9.0 + PATIENT_S)
    queues.leave(first)
    assert (len(queues), queues._queues) == (0, {})


def test_a_deadline_is_kept() -> None:
    """A deadline is kept, however the queue moves."""
    queues = ThreadQueues()
    queues.enter(first := job(due_at=1.1), "pool", 1.0)
    assert queues.ends_at(first) == 1.1


def test_time_of_a_blocked_loop_does_not_count() -> None:
    """Time in which the service's loop was blocked does not count as waiting."""
    queues = ThreadQueues()
    queues.enter(first := job(), "pool", 1.0)
    queues.excuse(0.4)
    assert queues.ends_at(first) == pytest.approx(1.4 + PATIENT_S)


@pytest.mark.parametrize(
    ("due_at", "until", "ends_at"), [(None, 1.5, 0.75), (0.4, 1.5, 0.4), (None, 0.9, 0.25)]
)
def test_the_time_of_a_query_stands_still(due_at: float | None, until: float, ends_at: float) -> None:
    """The query's clock stops while it waits, up to its deadline."""
    one = job(due_at=due_at)
    assert one.ends_after_wait(until) == 0.25
    ThreadQueues().enter(one, "pool", 1.0)
    assert one.ends_after_wait(until) == pytest.approx(ends_at)
