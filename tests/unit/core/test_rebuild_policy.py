"""Rebuilds of a client: budget, pauses, and what counts as no progress."""

from __future__ import annotations

import pytest

from fivestage.core.ledger import PartitionKey
from fivestage.kafka.connection.rebuild_policy import (
    LONGEST_PAUSE_S,
    MAX_GAP_S,
    Debounce,
    RebuildBudget,
    StallTracker,
    pause_s,
)

A, B = PartitionKey("q", 0), PartitionKey("q", 1)


def test_a_budget_is_spent_and_comes_back() -> None:
    """The budget of the window allows some rebuilds, with growing pauses; aged ones are refunded."""
    budget = RebuildBudget(lambda: 0.0, most=3, window_s=300)
    assert [budget.take(now) for now in (0, 100, 200, 250)] == [0.2, 0.8, 3.2, None]
    assert [budget.take(now) for now in (300, 301)] == [3.2, None]


def test_another_fault_starts_with_a_short_pause() -> None:
    """Only the same fault, seen before, lengthens the pause."""
    debounce = Debounce(apart_s=0.1)
    assert [debounce.update(seen, now) for seen, now in (("a", 1.0), ("b", 1.2), ("b", 1.4))] == [
        None,
        None,
        "b",
    ]


def test_a_refused_rebuild_costs_nothing() -> None:
    """Rejected rebuilds do not prolong the wait."""
    budget = RebuildBudget(lambda: 0.0, most=1, window_s=10)
    assert budget.take(0) is not None
    assert {budget.take(now) for now in range(1, 10)} == {None}
    assert budget.take(10) is not None


@pytest.mark.parametrize("attempt", [0, 1, 2, 5, 1000])
def test_pauses_are_bounded(attempt: int) -> None:
    """A pause is at most the longest one; jitter takes off half of it at most."""
    longest, shortest = pause_s(attempt, 0.0), pause_s(attempt, 1.0)
    assert 0 < longest <= LONGEST_PAUSE_S
    assert shortest == longest / 2


def look(
    progress: StallTracker, seconds: range, **positions: int | None
) -> list[dict[PartitionKey, int | None]]:
    """Check once a second; return the quiet partitions found, without empty results."""
    where = {A: positions["a"], **({B: positions["b"]} if "b" in positions else {})}
    return [quiet for now in seconds if (quiet := progress.update(where, float(now)))]


def test_a_partition_that_does_not_move() -> None:
    """A stuck partition is named once per limit, moving ones are not."""
    progress = StallTracker(limit_s=10)
    assert look(progress, range(10), a=5, b=1) == []
    assert look(progress, range(10, 12), a=5, b=2) == [{A: 5}]
    assert look(progress, range(12, 20), a=5, b=2) == []
    assert look(progress, range(20, 22), a=5, b=2) == [{A: 5, B: 2}]


def test_a_position_that_is_never_found() -> None:
    """A position that stays unknown is no progress either."""
    assert look(StallTracker(limit_s=10), range(12), a=None) == [{A: None}]


def test_pauses_do_not_count() -> None:
    """Reported pauses, and time without a check, do not count."""
    progress = StallTracker(limit_s=10)
    look(progress, range(9), a=5)
    progress.reset()
    assert look(progress, range(9, 18), a=5) == []
    late = 18 + int(MAX_GAP_S) + 1
    assert look(progress, range(late, late + 9), a=5) == []
    assert look(progress, range(late + 9, late + 12), a=5) == [{A: 5}]


def test_a_partition_that_was_away() -> None:
    """A partition that was not readable for a while starts again."""
    progress = StallTracker(limit_s=10)
    look(progress, range(9), a=5, b=5)
    look(progress, range(9, 10), a=6)
    assert look(progress, range(10, 15), a=7, b=5) == []
