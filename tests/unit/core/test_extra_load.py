"""The budget of calls beyond one for each query."""

from __future__ import annotations

import pytest

from fivestage.core.extra_load import MEMORY_S, PER_S, SHARE, ExtraLoad

AT_REST = int(PER_S * MEMORY_S)


def taken(budget: ExtraLoad, now: float) -> int:
    """Take all that is permitted, and return how much that is; 1000 is no budget any more."""
    return next((count for count in range(1000) if not budget.take(now)), 1000)


def test_a_node_that_is_rarely_called_may_be_called_again() -> None:
    """A new budget, and one that rested, permit a few calls."""
    budget = ExtraLoad(now=5.0)
    assert taken(budget, 5.0) == AT_REST
    assert taken(budget, 5.0 + 10 * MEMORY_S) in {AT_REST - 1, AT_REST}


@pytest.mark.parametrize("per_s", [10, 100, 1000])
def test_where_every_call_fails_a_fifth_of_the_load_is_added(per_s: int) -> None:
    """Each ordinary call asks for a further one: a share of them gets it, and one a second."""
    budget, extra, seconds = ExtraLoad(now=0.0), 0, 60
    for number in range(seconds * per_s):
        now = number / per_s
        budget.called(now)
        extra += budget.take(now)
    assert extra == pytest.approx(SHARE * per_s * seconds + PER_S * seconds, abs=AT_REST + 1, rel=0.05)


def test_a_quiet_hour_does_not_pay_for_a_storm() -> None:
    """What is saved up is worth ten seconds of calls, however long none was needed."""
    budget, per_s = ExtraLoad(now=0.0), 100
    for number in range(600 * per_s):
        budget.called(number / per_s)
    assert taken(budget, 600.0) == pytest.approx(SHARE * per_s * MEMORY_S + AT_REST, rel=0.05)


def test_calls_that_another_budget_permitted_are_paid_for() -> None:
    """Where they cost more than ordinary calls bring, nothing is left; what is owed is forgotten too."""
    budget = ExtraLoad(0.0, share=0.5, per_s=0.0)
    assert not budget.take(0.0)
    for _ in range(4):
        budget.called(0.0)
        budget.owe(0.0)
    assert not budget.take(0.0)
    for _ in range(6):
        budget.called(0.0)
    assert [budget.take(0.0) for _ in range(2)] == [True, False]


def test_time_that_goes_back_gives_nothing() -> None:
    """Two threads may read the clock in another order than they come here."""
    budget = ExtraLoad(now=100.0)
    assert taken(budget, 100.0) == AT_REST
    assert taken(budget, 0.0) == 0
    assert taken(budget, 100.0) == 0
