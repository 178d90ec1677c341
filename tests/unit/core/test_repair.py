"""When a client is made anew: the budget, the pauses, and what counts as no progress."""

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
    """So many rebuilds within the window, each after a longer pause; one more for each that has aged."""
    budget = RebuildBudget(lambda: 0.0, most=3, window_s=300)
    assert [budget.take(now) for now in (0, 100, 200, 250)] == [0.2, 0.8, 3.2, None]
    assert [budget.take(now) for now in (300, 301)] == [3.2, None]


def test_another_trouble_is_seen_for_the_first_time() -> None:
    """Only the same trouble, seen before, is more than a moment's."""
    debounce = Debounce(apart_s=0.1)
    assert [debounce.update(seen, now) for seen, now in (("a", 1.0), ("b", 1.2), ("b", 1.4))] == [
        None,
        None,
        "b",
    ]


def test_a_refused_rebuild_costs_nothing() -> None:
    """Asking again and again does not prolong the wait."""
    budget = RebuildBudget(lambda: 0.0, most=1, window_s=10)
    assert budget.take(0) is not None
    assert {budget.take(now) for now in range(1, 10)} == {None}
    assert budget.take(10) is not None


@pytest.mark.parametrize("attempt", [0, 1, 2, 5, 1000])
def test_pauses_are_bounded(attempt: int) -> None:
    """A pause is never longer than the longest, and chance takes off half of it at most."""
    longest, shortest = pause_s(attempt, 0.0), pause_s(attempt, 1.0)
    assert 0 < longest <= LONGEST_PAUSE_S
    assert shortest == longest / 2


def look(
    progress: StallTracker, seconds: range, **positions: int | None
) -> list[dict[PartitionKey, int | None]]:
    """Look once a second; what was found quiet, without the empty answers."""
    where = {A: positions["a"], **({B: positions["b"]} if "b" in positions else {})}
    return [quiet for now in seconds if (quiet := progress.update(where, float(now)))]


def test_a_partition_that_does_not_move() -> None:
    """It is named once per limit, and those that move are not."""
    progress = StallTracker(limit_s=10)
    assert look(progress, range(10), a=5, b=1) == []
    assert look(progress, range(10, 12), a=5, b=2) == [{A: 5}]
    assert look(progress, range(12, 20), a=5, b=2) == []
    assert look(progress, range(20, 22), a=5, b=2) == [{A: 5, B: 2}]


def test_a_position_that_is_never_found() -> None:
    """No position for long is no progress either."""
    assert look(StallTracker(limit_s=10), range(12), a=None) == [{A: None}]


def test_excuses() -> None:
    """Time in which nothing was read does not count, whether it was said so or nobody looked."""
    progress = StallTracker(limit_s=10)
    look(progress, range(9), a=5)
    progress.reset()
    assert look(progress, range(9, 18), a=5) == []
    late = 18 + int(MAX_GAP_S) + 1
    assert look(progress, range(late, late + 9), a=5) == []
    assert look(progress, range(late + 9, late + 12), a=5) == [{A: 5}]


def test_a_partition_that_was_away() -> None:
    """A partition that could not be read for a while begins anew."""
    progress = StallTracker(limit_s=10)
    look(progress, range(9), a=5, b=5)
    look(progress, range(9, 10), a=6)
    assert look(progress, range(10, 15), a=7, b=5) == []
